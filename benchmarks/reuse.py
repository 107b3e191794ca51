"""Nothing computed twice, live: 16 users with one system prompt of 512 tokens talk for five turns each, at once.

    python -m benchmarks.reuse [--rounds 5] [--think-s 0] [--llamacpp FOLDER] [--settings "Q4_0, fa on"]

farthing with and without its prefix cache, and llama.cpp's server with its prompt cache on, in the best of its
settings, which trials find (or --settings names, separated by ";"): a slot per user, every file with flash attention,
then the best file without it and with one pool for all. Rounds are interleaved; figures are medians. Every run begins
with an empty cache: a new engine, a new server; making them is not timed. farthing is timed in process, without HTTP.
llama.cpp is timed by its clients on loopback, who read its answers as streams, and by its own account: the longest of
the users' sums of prompt_ms and predicted_ms, without HTTP and waiting. farthing's answers with and without reuse must
be the same, token for token, or the run fails. The server is built once, into the cache folder of benchmarks.peers;
without it farthing is measured alone. Nothing else should run meanwhile; if something did, it is said. Prints tables;
the last line is one JSON document, also written to benchmarks/results/reuse.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.conversations import Play, Run, play_farthing, system_prompt
from benchmarks.llama_server import Server, options, play_server
from benchmarks.others import Others
from benchmarks.peers.build import PROGRAMS, SERVER, Missing, cache_folder, llamacpp_programs, llamacpp_version
from benchmarks.peers.llamacpp import Setting, settings_for
from benchmarks.peers.measure import chosen
from benchmarks.peers.models import SMALL_FORMATS, quantized
from benchmarks.reuse_table import LLAMACPP, WITH, WITHOUT, ratios, summary, table
from farthing.economics.cost import HostCost
from farthing.engine import EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.report.machine import commit, free_memory, this_machine

RESULTS = Path(__file__).parent / "results" / "reuse.json"
# F16 takes four times the bytes for a token of an answer, and these are half of the work.
FORMATS = {name: options for name, options in SMALL_FORMATS.items() if name != "F16"}
DISTURBED = 0.05  # of a run's time on all its threads: what others took
Json = dict[str, Any]
Player = Callable[[], Run]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def farthing_players(model: Model, play: Play, **config: Any) -> dict[str, Player]:
    def player(is_prefix_cached: bool) -> Player:
        return lambda: play_farthing(model, EngineConfig(is_prefix_cached=is_prefix_cached, **config), play)

    return {WITH: player(True), WITHOUT: player(False)}


def llamacpp_players(model: Model, play: Play, threads: int, given: Path | None) -> tuple[dict[Setting, Player], str]:
    """One for each setting, and the version. Raises Missing."""
    cache = cache_folder()
    programs = llamacpp_programs(cache, given, (*PROGRAMS, SERVER))
    files = quantized(cache, programs, model.path, FORMATS)
    system = system_prompt(model, play.system_tokens)

    def player(setting: Setting) -> Player:
        def run() -> Run:
            log = cache / "logs" / "llama-server.log"
            with Server(programs / SERVER, files[setting.weights], threads, options(setting, play), log) as server:
                return play_server(server, system, play)

        return run

    return {setting: player(setting) for setting in settings_for(files, with_q8_cache=[])}, llamacpp_version(programs)


def measure(players: Mapping[str, Player], rounds: int) -> dict[str, list[Run]]:
    """Each round begins with another one, so that nobody always follows the same. Exits where an answer changed."""
    runs: dict[str, list[Run]] = {name: [] for name in players}
    names = list(players)
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            runs[name].append(run_once(f"round {number + 1} of {rounds}, {name}", players[name]))
    ours = [run.answers for name in (WITH, WITHOUT) for run in runs[name]]
    if any(answers != ours[0] for answers in ours):
        sys.exit("farthing's answers with and without reuse differ")
    return runs


def run_once(title: str, player: Player) -> Run:
    free_memory()  # the last engine's
    with Others() as others:
        run = player()
    run.others_s = others.seconds
    disturbed = f"; others computed for {run.others_s:.2f} s" if is_disturbed(run) else ""
    say(f"{title}: {run.seconds:.2f} s{disturbed}")
    return run


def is_disturbed(run: Run) -> bool:
    return run.others_s is not None and run.others_s > DISTURBED * run.seconds


def best_settings(peers: Mapping[Setting, Player]) -> tuple[list[Setting], dict[str, float]]:
    """Those that are worth every round, and output tokens per second of each in its trial."""
    speeds: dict[Setting, float] = {}

    def trial(settings: Sequence[Setting]) -> None:
        for setting in settings:
            run = run_once(f"trial, {setting}", peers[setting])
            speeds[setting] = run.total("output_tokens") / run.seconds

    trial([setting for setting in peers if setting.is_flash and not setting.is_unified])
    best = max(speeds, key=lambda setting: speeds[setting])
    trial([setting for setting in peers if setting.weights == best.weights and setting not in speeds])
    by_name = {str(setting): speed for setting, speed in speeds.items()}
    return [setting for setting in speeds if str(setting) in chosen(by_name)], by_name


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reuse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = os.environ.get("FARTHING_LLAMACPP")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--think-s", type=float, default=Play.think_s, help="from an answer to the user's next message")
    parser.add_argument("--llamacpp", type=Path, default=Path(given) if given else None, help="folder of its programs")
    parser.add_argument(
        "--settings", default="", help='of llama.cpp, instead of trials: "Q4_0, fa on; Q4_0, fa off, kvu"'
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds < 1 or args.think_s < 0:
        parser.error(f"--rounds is {args.rounds}, --think-s {args.think_s}; allowed: 1 and more, 0 and more")
    args.settings = [name.strip() for name in args.settings.split(";") if name.strip()]
    return args


def main() -> None:
    args = parsed()
    model, play = load_model(args.model), Play(think_s=args.think_s)
    players, trials, version = farthing_players(model, play, num_threads=args.threads), {}, None
    try:
        peers, version = llamacpp_players(model, play, args.threads, args.llamacpp)
        settings = [setting for setting in peers if str(setting) in args.settings]
        if unknown := sorted(set(args.settings) - {str(setting) for setting in peers}):
            sys.exit(f"unknown: {'; '.join(unknown)}; known: {'; '.join(map(str, peers))}")
        if not settings:
            settings, trials = best_settings(peers)
        players |= {f"{LLAMACPP}{setting}": peers[setting] for setting in settings}
    except (Missing, OSError, ValueError) as reason:  # its trouble must not cost farthing its figures
        say(f"llama.cpp is left out: {reason}")
    runs = measure(players, args.rounds)
    rows = [summary(name, of_name, HostCost()) for name, of_name in runs.items()]
    found = ratios(rows)
    print(f"{play}, {args.threads} threads, medians of {args.rounds}; farthing in process; {commit()}")
    print(table(rows, found))
    document = {"play": asdict(play), "runs": rows, "times_faster_with_reuse_than": found, "trials_tok_s": trials}
    document |= {"llama.cpp": version, "rounds": args.rounds, "threads": args.threads}
    document |= {"usd_per_hour": str(HostCost().usd_per_hour), "machine": str(this_machine(instruction_sets()[0]))}
    document |= {"commit": commit()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()

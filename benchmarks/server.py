"""Sixteen clients at once, one system prompt of 600 tokens and a question each: farthing beside llama.cpp's server.

    python -m benchmarks.server [--rounds 5] [--settings "Q4_0 throughout, fa on"] [--llamacpp FOLDER]

Both servers answer streams of 64 tokens over HTTP on loopback; the clients are one light process on the same cores.
Each round starts each server anew, the order turned round by round: the first wave finds it cold, the second asks other
questions and finds what the first left. llama.cpp's server has a slot for each client, flash attention, its prompt
cache on, and its own Q4_0 of all matrices (the fastest in benchmarks/reuse.py's trials); --settings names others,
separated by ";". Starting is not timed. First token: from the sending of the wave to a client's first text that is not
empty. Figures are medians over the rounds, of the clients' median and of the last client's.

Then what HTTP costs: 16 streams of 256 tokens from the local engine behind `farthing serve`, beside the same requests
to an engine in this process, rounds interleaved, and the kernels alone (`farthing bench`'s decode of 16 sequences, at
the same middle context). Prints tables; the last line is one JSON document, also written to
benchmarks/results/server.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.conversations import Play, question, system_prompt
from benchmarks.http_loss import http_loss, http_table
from benchmarks.llama_server import Server, options
from benchmarks.load import serving
from benchmarks.load.processes import end_on_sigterm
from benchmarks.load.wave import Wave, chat_request, send_wave
from benchmarks.others import Others
from benchmarks.peers.build import PROGRAMS, SERVER, Missing, cache_folder, llamacpp_programs, llamacpp_version
from benchmarks.peers.llamacpp import Setting, settings_for
from benchmarks.peers.models import SMALL_FORMATS, quantized
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parent / "results" / "server.json"
MODEL = "smollm2-135m-instruct"
PLAY = Play(num_users=16, num_turns=1, system_tokens=600, answer_tokens=64)
OURS, LLAMACPP = "farthing", "llama.cpp: "
BEST = "Q4_0 throughout, fa on"
# llama.cpp's server reads these beside OpenAI's: greedy, and no work for samplers that then do nothing.
ITS_OWN = {"samplers": ["top_k"], "top_k": 1, "cache_prompt": True}
Json = dict[str, Any]
Opened = Callable[[], Any]  # a context manager that gives a server's port


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def requests(system: str, wave: int, more: Mapping[str, Any]) -> list[bytes]:
    """A question for each client, other ones in each wave."""
    talks = [
        [{"role": "system", "content": system}, {"role": "user", "content": question(user, wave)}]
        for user in range(PLAY.num_users)
    ]
    return [chat_request(talk, PLAY.answer_tokens, **more) for talk in talks]


def openers(model: Model, args: argparse.Namespace, folder: Path) -> tuple[dict[str, Opened], str | None]:
    """How each server is started, by name, and llama.cpp's version, None where it cannot be measured."""

    def ours() -> Any:
        return serving.local(folder, MODEL, args.threads)

    found: dict[str, Opened] = {OURS: ours}
    try:
        cache = cache_folder()
        programs = llamacpp_programs(cache, args.llamacpp, (*PROGRAMS, SERVER))
        files = quantized(cache, programs, model.path, SMALL_FORMATS)
    except Missing as error:
        say(f"llama.cpp's server is not measured: {error}")
        return found, None
    known = {str(setting): setting for setting in settings_for(files, with_q8_cache=[])}
    for name in args.settings:
        if name not in known:
            sys.exit(f"unknown: {name}; known: {'; '.join(known)}")

    def theirs(setting: Setting) -> Opened:
        @contextmanager
        def opened() -> Iterator[int]:
            log = cache / "logs" / "llama-server.log"
            path = files[setting.weights]
            with Server(programs / SERVER, path, args.threads, options(setting, PLAY), log) as server:
                yield server.port

        return opened

    return found | {f"{LLAMACPP}{name}": theirs(known[name]) for name in args.settings}, llamacpp_version(programs)


def play(opened: Opened, system: str, more: Mapping[str, Any]) -> dict[str, Wave]:
    with opened() as port:
        return {
            "cold": uvloop.run(send_wave(port, requests(system, 0, more))),
            "warm": uvloop.run(send_wave(port, requests(system, 2, more))),
        }


def measure(servers: Mapping[str, Opened], system: str, rounds: int) -> tuple[dict[str, list[dict[str, Wave]]], float]:
    """Each round begins with another server. Also the processor time that others took."""
    runs: dict[str, list[dict[str, Wave]]] = {name: [] for name in servers}
    names, others_s = list(servers), 0.0
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            more = {"model": MODEL} if name == OURS else ITS_OWN
            with Others() as others:
                waves = play(servers[name], system, more)
            others_s += others.seconds or 0.0
            runs[name].append(waves)
            told = ", ".join(f"{wave} {waves[wave].output_tok_s:.0f} tok/s" for wave in waves)
            say(f"round {number + 1} of {rounds}, {name}: {told}")
    return runs, others_s


def summary(name: str, waves: Sequence[Wave]) -> Json:
    """Medians over the rounds."""

    def median(of: Callable[[Wave], float]) -> float:
        return statistics.median(map(of, waves))

    return {
        "name": name,
        "first_s": {
            "median": median(lambda wave: statistics.median(one.first_s for one in wave.heard)),
            "last": median(lambda wave: max(one.first_s for one in wave.heard)),
        },
        "output_tok_s": median(lambda wave: wave.output_tok_s),
        "seconds": median(lambda wave: wave.seconds),
        "rounds_s": [round(wave.seconds, 3) for wave in waves],
        "input_tokens": sum(one.input_tokens for one in waves[0].heard),
        "cache_read_tokens": sum(one.cache_read_tokens for one in waves[0].heard),
        "output_tokens": sum(one.output_tokens for one in waves[0].heard),
    }


def table(rows: Sequence[Json]) -> str:
    lines = [f"{'':34} {'':4}  first token: median   last   out tok/s  total s  from cache"]
    for row in rows:
        first = row["first_s"]
        lines.append(
            f"{row['name']:34} {row['wave']:4}  {first['median']:17.3f} s {first['last']:6.3f}"
            f" {row['output_tok_s']:10,.0f} {row['seconds']:8.2f}"
            f"  {row['cache_read_tokens']:,} of {row['input_tokens']:,}"
        )
    return "\n".join(lines)


def ratios(rows: Sequence[Json]) -> Json:
    """farthing's throughput beside llama.cpp's best, cold and warm."""
    found: Json = {}
    for wave in ("cold", "warm"):
        of_wave = [row for row in rows if row["wave"] == wave]
        [ours] = [row for row in of_wave if row["name"] == OURS]
        if peers := [row for row in of_wave if row["name"] != OURS]:
            best = max(peers, key=lambda row: row["output_tok_s"])
            found[wave] = ours["output_tok_s"] / best["output_tok_s"]
            found[f"{wave}, first token"] = best["first_s"]["median"] / ours["first_s"]["median"]
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = os.environ.get("FARTHING_LLAMACPP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", default=BEST, help="of llama.cpp, separated by ;")
    parser.add_argument("--llamacpp", type=Path, default=Path(given) if given else None, help="folder of its programs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; allowed: 1 and more")
    args.settings = [name.strip() for name in args.settings.split(";") if name.strip()]
    return args


def main() -> None:
    args = parsed()
    end_on_sigterm()
    model = load_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        servers, version = openers(model, args, Path(folder))
        runs, others_s = measure(servers, system_prompt(model, PLAY.system_tokens), args.rounds)
        loss = http_loss(model, serving.local(Path(folder), MODEL, args.threads), args.rounds, args.threads, say)
    rows = [
        {**summary(name, [waves[wave] for waves in of_server]), "wave": wave}
        for name, of_server in runs.items()
        for wave in ("cold", "warm")
    ]
    document: Json = {"rows": rows, "times_llama.cpp": ratios(rows), "http": loss, "llama.cpp": version}
    document |= {"rounds": args.rounds, "threads": args.threads, "others_s": others_s, "model": MODEL}
    document |= {"clients": PLAY.num_users, "system_tokens": PLAY.system_tokens, "answer_tokens": PLAY.answer_tokens}
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    print(table(rows))
    for name, ratio in document["times_llama.cpp"].items():
        print(f"farthing is {ratio:.1f} x llama.cpp's best, {name}")
    print(http_table(loss))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()

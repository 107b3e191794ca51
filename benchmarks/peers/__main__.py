"""farthing beside its peers: same weights, same machine, same run, rounds interleaved, medians.

    make bench-peers
    python -m benchmarks.peers [--peers llama.cpp,openvino] [--rows prefill-512,decode-1] [--rounds 5] [--shapes small]

The first time, the peers are built and installed into the cache folder (FARTHING_PEERS, else ~/.cache/farthing/peers):
about twenty minutes and 6 GB. A peer that cannot be built or run is named at the end, with the reason. llama.cpp's
programs are taken from --llamacpp or FARTHING_LLAMACPP where it is given. Every engine has --threads threads and its
best setting: trials before the rounds find it. farthing is timed on its kernels, as llama.cpp is by its own benchmarks;
the others choose tokens too. Speculation has its own command, benchmarks/speculation.py. Nothing else should run
meanwhile. Prints tables; the last line is one JSON document, also written to benchmarks/results/peers.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import farthing
from benchmarks.peers.build import Missing, cache_folder
from benchmarks.peers.child import Engine
from benchmarks.peers.measure import Measured, measure
from benchmarks.peers.models import large_model
from benchmarks.peers.prepare import PEERS, Place
from benchmarks.peers.prepare import farthing as prepare_farthing
from benchmarks.peers.table import compare, document, table
from benchmarks.peers.works import ROWS, Row
from farthing.kernels import instruction_sets
from farthing.models import load_model
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
Json = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def prepared(place: Place, names: Sequence[str]) -> tuple[list[Engine], Json]:
    """farthing and those of its peers that are there, and why the others are not."""
    engines, missing = [prepare_farthing(place, sys.executable, farthing.__version__)], {}
    for name in names:
        try:
            engines.append(PEERS[name](place))
        except Exception as reason:  # one peer's trouble must not cost the others their figures
            said = str(reason) if isinstance(reason, Missing) else f"{type(reason).__name__}: {reason}"
            missing[name] = said
            say(f"{name} is left out: {said}")
    return engines, missing


def one_shape(title: str, place: Place, peers: Sequence[str], rows: Sequence[Row], rounds: int) -> Json:
    """Measures, prints the table, returns the JSON."""
    say(f"{title}: getting ready")
    engines, missing = prepared(place, peers)
    with ExitStack() as stack:
        for engine in engines:
            stack.callback(engine.close)
        measured = measure(engines, rows, rounds, lambda text: say(f"{title}: {text}"))
    compared = {row: compare(row, measured.medians(row.name), has_floors=not place.is_large) for row in rows}
    print(f"\n{title}, {place.threads} threads, medians of {rounds}; {commit()}")
    print(table([one for of_row in compared.values() for one in of_row]))
    not_measured = [{"peer": name, "reason": reason} for name, reason in missing.items()] + errors(measured)
    for one in not_measured:
        one["reason"] = one["reason"].replace(str(place.cache), "PEERS").replace(str(Path.home()), "~")
        print("not measured: " + ", ".join(map(str, one.values())))
    return {
        "model": title,
        "versions": {engine.name: engine.version for engine in engines},
        "rows": [document(row, of_row, measured.trial, measured.rounds) for row, of_row in compared.items()],
        "not_measured": not_measured,
    }


def errors(measured: Measured) -> list[Json]:
    """The same reason once for all rows of a setting."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for (engine, setting, row), why in measured.errors.items():
        rows.setdefault((engine, setting, why), []).append(row)
    return [
        {"peer": engine, "setting": setting, "rows": " ".join(names), "reason": why}
        for (engine, setting, why), names in rows.items()
    ]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = {row.name: row for row in ROWS}

    def several(allowed: Sequence[str]) -> Any:
        def split(text: str) -> list[str]:
            found = [name.strip() for name in text.split(",") if name.strip()]
            if unknown := [name for name in found if name not in allowed]:
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(allowed)}")
            return found

        return split

    given = os.environ.get("FARTHING_LLAMACPP")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peers", type=several(list(PEERS)), default=list(PEERS), help=",".join(PEERS))
    parser.add_argument("--rows", type=several(list(names)), default=list(names), help=",".join(names))
    parser.add_argument("--shapes", type=several(["small", "large"]), default=["small", "large"], help="small,large")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llamacpp", type=Path, default=Path(given) if given else None, help="folder of its programs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}; allowed: 1 and more")
    args.rows = [row for row in ROWS if row.name in args.rows]
    return args


def main() -> None:
    args = parsed()
    model = load_model(args.model).path
    place = Place(cache_folder(), model, args.threads, args.llamacpp)
    shapes = []
    if "small" in args.shapes:
        shapes.append(one_shape(model.stem, place, args.peers, args.rows, args.rounds))
    if "large" in args.shapes:
        large = replace(place, model=large_model(place.cache, model), is_large=True)
        peers = [name for name in args.peers if name == "llama.cpp"]
        shapes.append(one_shape("random weights, 1.07 B parameters", large, peers, args.rows, args.rounds))
    found = {"shapes": shapes, "rounds": args.rounds, "threads": args.threads}
    found |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""farthing beside llama.cpp and transformers: same model, same machine, same run, rounds interleaved, medians.

    python benchmarks/peers.py --llamacpp FOLDER_OF_ITS_PROGRAMS [--transformers PYTHON_THAT_HAS_IT] [--rounds 5]

llama.cpp runs the same file (llama-bench, flash attention off and on, the faster counts). transformers runs the weights
unpacked to float32, and so does farthing in the rows that it is compared with. Nothing else should run meanwhile.
Prints a table; the last line is one JSON document, also written to benchmarks/results/peers.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.report.machine import commit, this_machine
from farthing.report.speed import Work, measure_speed

HERE = Path(__file__).parent
PREFILL, DECODE = Work("prefill", 1, 512), Work("decode", 1, 16)
BATCHES = (1, 4, 16)

Speeds = Iterator[tuple[str, str, float]]  # engine, work, tokens per second


def ours(name: str, model: Model, works: tuple[Work, ...], product: str, threads: int) -> Speeds:
    rows, _ = measure_speed(model, works, product, threads, "f16", lambda: None)
    for row in rows:
        yield name, f"{row.work} {row.context if row.work == 'prefill' else row.batch}", row.tok_s


def llamacpp(folder: Path, model: Path, threads: int) -> Speeds:
    sizes = ["-p", "512", "-n", "64", "-r", "1"]
    command = [folder / "llama-bench", "-m", model, "-t", str(threads), *sizes, "-o", "json"]
    best: dict[str, float] = defaultdict(float)
    for flash in ("0", "1"):
        out = subprocess.run([*command, "-fa", flash], check=True, capture_output=True, text=True).stdout
        for row in json.loads(out):
            work = "prefill 512" if row["n_prompt"] else "decode 1"
            best[work] = max(best[work], row["avg_ts"])
    for work, speed in best.items():
        yield "llama.cpp", work, speed


def transformers(python: str, model: Path, threads: int) -> Speeds:
    command = [python, HERE / "transformers_speed.py", model, str(threads), *map(str, BATCHES)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for work, speed in json.loads(out.splitlines()[-1]).items():
        yield "transformers f32", work, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llamacpp", type=Path, required=True)
    parser.add_argument("--transformers")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = load_model(args.model)
    decode = tuple(Work("decode", batch, 16) for batch in BATCHES)
    engines: list[Callable[[], Speeds]] = [
        lambda: ours("farthing", model, (PREFILL, DECODE), "int8", args.threads),
        lambda: llamacpp(args.llamacpp, model.path, args.threads),
    ]
    if args.transformers:
        full = load_model(args.model, weights="f32")
        engines += [
            lambda: ours("farthing f32", full, (PREFILL, *decode), "f32", args.threads),
            lambda: transformers(args.transformers, model.path, args.threads),
        ]
    speeds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        for engine in engines:
            for name, work, speed in engine():
                speeds[name, work].append(speed)
    median = {key: statistics.median(values) for key, values in speeds.items()}
    rows = []
    for name, peer in (("farthing", "llama.cpp"), ("farthing f32", "transformers f32")):
        for work in [w for n, w in median if n == name and (peer, w) in median]:
            speed, peer_speed = median[name, work], median[peer, work]
            ratio = speed / peer_speed
            rows.append(
                {"work": work, "engine": name, "tok_s": speed, "peer": peer, "peer_tok_s": peer_speed, "ratio": ratio}
            )
            print(f"{work:12} {name:13} {speed:7.1f} tok/s   {peer:17} {peer_speed:7.1f} tok/s   {ratio:5.2f} x")
    machine = str(this_machine(instruction_sets()[0]))
    document = {"rows": rows, "rounds": args.rounds, "threads": args.threads, "machine": machine, "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "peers.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()

"""How time and memory grow with batch and context, beside the machine's limit, and whether there are cliffs.

    pip install "farthing[plot]"
    python benchmarks/scaling.py [--runs 2] [--rounds 5] [--kv q8]

A run measures every point in each of its rounds, so that what disturbs the machine disturbs all of them alike; a point
is the median of its steps. A cliff is a point whose step takes over 25 % longer than a straight line between its
neighbours says, in every run. Peak memory is that of a process that does nothing else. Nothing else should run
meanwhile. Prints a table; the last line is one JSON document, also in results/scaling.json and drawn in scaling.png.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from farthing import kernels
from farthing.engine import EngineConfig
from farthing.kernels import Limits
from farthing.kernels.plan import Product
from farthing.models import load_model
from farthing.report.machine import commit, peak_bytes, this_machine
from farthing.report.roofline import Work
from farthing.report.speed import PAGE_SIZE, Bench, best_limits

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
CONTEXTS = (0, 128, 256, 512, 1024, 2048, 3072, 4096, 6144, 8192)
BATCH_CONTEXTS = (32, 512)
TOLERANCE = 0.25  # how much slower than its neighbours suggest a point may be
DEFAULTS = EngineConfig()
Document = dict[str, Any]  # plain JSON


@dataclass(frozen=True)
class Sweep:
    """Points that differ in `axis` only."""

    name: str
    axis: str  # "batch" or "context"
    works: tuple[Work, ...]

    @property
    def xs(self) -> list[int]:
        return [getattr(work, self.axis) for work in self.works]


def sweeps(max_batch: int, max_context: int) -> list[Sweep]:
    batches = [batch for batch in BATCHES if batch <= max_batch]
    found = [
        Sweep(f"{context:,} tokens of context", "batch", tuple(Work("decode", batch, context) for batch in batches))
        for context in BATCH_CONTEXTS
        if context <= max_context
    ]
    contexts = [context for context in CONTEXTS if context <= max_context]
    return [*found, Sweep("1 sequence", "context", tuple(Work("decode", 1, context) for context in contexts))]


def cliffs(xs: Sequence[int], runs: Sequence[Sequence[float]], tolerance: float = TOLERANCE) -> list[int]:
    """The xs where, in every run, seconds[i] exceeds by more than `tolerance` what a straight line between the points
    before and after says. The two ends have no such line."""
    return [xs[i] for i in range(1, len(xs) - 1) if all(_excess(xs, seconds, i) > tolerance for seconds in runs)]


def _excess(xs: Sequence[int], seconds: Sequence[float], i: int) -> float:
    share = (xs[i] - xs[i - 1]) / (xs[i + 1] - xs[i - 1])
    expected = seconds[i - 1] + share * (seconds[i + 1] - seconds[i - 1])
    return seconds[i] / expected - 1


@dataclass(frozen=True)
class Setting:
    """What every process must set up alike."""

    model: str
    product: Product
    kv: str
    threads: int

    def bench(self, works: Sequence[Work]) -> Bench:
        return Bench(load_model(self.model), works, self.product, self.threads, self.kv)


def page_bytes_used(bench: Bench, work: Work) -> int:
    """Bytes of the pages that hold the K and V of a decode after its steps."""
    return work.batch * -(-work.longest // PAGE_SIZE) * PAGE_SIZE * bench.counts.kv_bytes


def floor_bytes(bench: Bench, work: Work) -> int:
    """Weights, and the K and V of the tokens there are: what memory cannot do without."""
    return bench.counts.weight_bytes + work.batch * work.longest * bench.counts.kv_bytes


def one_run(benches: Sequence[Bench], sweeps: Sequence[Sweep], rounds: int) -> tuple[list[list[float]], Limits]:
    """Median seconds of a step for each point of each sweep, and the best limits probed meanwhile."""
    times: list[list[list[float]]] = [[[] for _ in sweep.works] for sweep in sweeps]
    probed = []
    for _ in range(rounds):
        probed.append(benches[0].probe())
        for bench, sweep, of_sweep in zip(benches, sweeps, times, strict=True):
            for work, of_work in zip(sweep.works, of_sweep, strict=True):
                of_work += bench.repeat(work)
    return [[statistics.median(of_work) for of_work in of_sweep] for of_sweep in times], best_limits(probed)


def peak_in_a_child(setting: Setting, work: Work) -> int | None:
    """Most resident memory of a process that fills the context and does the decode's steps once."""
    asked = json.dumps({"setting": asdict(setting), "batch": work.batch, "context": work.context})
    command = [sys.executable, __file__, "--child", asked]
    peak: int | None = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return peak


def child(asked: str) -> None:
    given = json.loads(asked)
    work = Work("decode", given["batch"], given["context"])
    bench = Setting(**given["setting"]).bench([work])
    bench.fill(work)
    bench.repeat(work)
    print(json.dumps(peak_bytes()))


def measure(
    setting: Setting, all_sweeps: Sequence[Sweep], runs: int, rounds: int, say: Callable[[str], None]
) -> Document:
    """The JSON document; `say` is told what happens."""
    peaks = []
    for sweep in all_sweeps:
        say(f"memory, {sweep.name}")
        peaks.append([peak_in_a_child(setting, work) for work in sweep.works])
    say("filling contexts")
    benches = [setting.bench(sweep.works) for sweep in all_sweeps]
    for bench, sweep in zip(benches, all_sweeps, strict=True):
        for work in sweep.works:
            bench.fill(work)
            bench.repeat(work, 1)
    measured = []
    for number in range(runs):
        say(f"run {number + 1} of {runs}")
        measured.append(one_run(benches, all_sweeps, rounds))
    found = []
    for index, (bench, sweep) in enumerate(zip(benches, all_sweeps, strict=True)):
        seconds = [times[index] for times, _ in measured]
        points = [
            {
                "batch": work.batch,
                "context": work.context,
                "step_s": [of_run[i] for of_run in seconds],
                "limit_s": [bench.counts.need(work).limit_s(limits) for _, limits in measured],
                "kv_bytes": page_bytes_used(bench, work),
                "floor_bytes": floor_bytes(bench, work),
                "peak_bytes": peaks[index][i],
            }
            for i, work in enumerate(sweep.works)
        ]
        found.append({"name": sweep.name, "axis": sweep.axis, "points": points, "cliffs": cliffs(sweep.xs, seconds)})
    return {
        "sweeps": found,
        "limits": [asdict(limits) for _, limits in measured],
        "runs": runs,
        "rounds": rounds,
        **asdict(setting),
        "machine": str(this_machine(kernels.instruction_sets()[0])),
        "commit": commit(),
    }


def table(document: Document) -> str:
    lines = ["batch  context  ms a step, each run    limit ms  KV MiB  peak MiB"]
    for sweep in document["sweeps"]:
        for point in sweep["points"]:
            steps = "  ".join(f"{1e3 * s:9.2f}" for s in point["step_s"])
            limit, kv, peak = 1e3 * min(point["limit_s"]), point["kv_bytes"] / 2**20, (point["peak_bytes"] or 0) / 2**20
            lines.append(f"{point['batch']:5}  {point['context']:7}  {steps}  {limit:10.2f}  {kv:6.0f}  {peak:8.0f}")
        at = ", ".join(map(str, sweep["cliffs"]))
        lines.append(f"{sweep['name']}: " + (f"cliffs at {sweep['axis']} {at}" if at else "no cliffs"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--product", default=DEFAULTS.product, choices=("f32", "int8"))
    parser.add_argument("--kv", default=DEFAULTS.kv)
    parser.add_argument("--threads", type=int, default=DEFAULTS.num_threads)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-batch", type=int, default=max(BATCHES))
    parser.add_argument("--max-context", type=int, default=max(CONTEXTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    from scaling_plot import draw  # before anything is measured: it needs matplotlib

    setting = Setting(args.model, args.product, args.kv, args.threads)
    all_sweeps = sweeps(args.max_batch, args.max_context)
    document = measure(setting, all_sweeps, args.runs, args.rounds, lambda text: print(text, file=sys.stderr))
    args.out.mkdir(exist_ok=True, parents=True)
    (args.out / "scaling.json").write_text(json.dumps(document, indent=1) + "\n")
    draw(document, args.out / "scaling.png")
    print(table(document))
    print(json.dumps(document))


if __name__ == "__main__":
    main()

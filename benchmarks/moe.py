"""What a mixture of experts costs: OLMoE's layers with random 4-bit weights, against the machine's bandwidth, a dense
model of as many parameters, and llama.cpp on the same file.

    pip install "farthing[dev,plot]"
    python benchmarks/moe.py [--layers 4] [--rounds 5] [--llamacpp FOLDER] [--plot moe.png]

time_over_limit: seconds of a token at batch 1 over active bytes / bandwidth, read from a buffer of that size.
dense_over_moe: seconds of the dense model's token over this one's, to be compared with bytes_ratio. kl_divergence and
top1_agreement: of the integer products from the same weights in float32, over a prompt. Both models give no sensible
text; experts are chosen by a random router, whose rows are equally long (uniform) or not (skewed). Rounds are
interleaved, figures are medians, ratios the medians of the rounds' own; batches of llama.cpp are one run. Nothing else
should run meanwhile. The last line is one JSON document.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.moe_models import RandomTensors, active_bytes, dense_config, olmoe_config, write_olmoe
from benchmarks.peers.build import Missing, cache_folder, llamacpp_programs
from benchmarks.peers.llamacpp import parse_bench
from farthing import kernels
from farthing.kernels.native import NativeProgram
from farthing.kernels.plan import Batch, KVSpec, Product
from farthing.models.config import ModelConfig
from farthing.models.decoder import build_plan
from farthing.report.machine import commit, this_machine

BATCHES = (1, 2, 4, 8, 16, 32, 64)
PREFILL, STEPS, PAGE, COMPARED = 512, 24, 16, 128
PEER_BATCHES = (1, 4, 16, 64)
SKEW = 1.5


def program_of(config: ModelConfig, tensors: RandomTensors, threads: int, product: Product = "int8") -> NativeProgram:
    kv = KVSpec(config.num_layers, config.num_kv_heads, config.head_dim, max(BATCHES) * 4, PAGE)
    program = kernels.load(build_plan(config, tensors, product), kv, num_threads=threads)
    assert isinstance(program, NativeProgram)
    return program


class Player:
    """Steps of a program on random tokens."""

    def __init__(self, program: NativeProgram, num_layers: int) -> None:
        self.program, self.num_layers = program, num_layers
        self.rng = np.random.default_rng(9)

    def decode(self, batch: int, steps: int) -> tuple[float, float]:
        """Median seconds of a step of `batch` sequences, and the mean number of distinct experts of a layer."""
        starts = np.arange(batch + 1, dtype=np.int32)
        tables = np.arange(batch * 4, dtype=np.int32).reshape(batch, 4)
        seconds, before = [], self.program.num_experts_read
        for position in range(steps):
            ids = self.rng.integers(0, self.program.plan.vocab_size, batch).astype(np.int32)
            positions = np.full(batch, position, np.int32)
            start = time.perf_counter()
            self.program.run(Batch(ids, positions, starts, tables, starts[:-1]))
            seconds.append(time.perf_counter() - start)
        read = (self.program.num_experts_read - before) / steps / self.num_layers
        return statistics.median(seconds), read

    def prompt(self, num_tokens: int, *, all_logits: bool = False) -> Batch:
        ids = self.rng.integers(0, self.program.plan.vocab_size, num_tokens).astype(np.int32)
        positions, starts = np.arange(num_tokens, dtype=np.int32), np.array([0, num_tokens], np.int32)
        pages = np.arange(num_tokens // PAGE, dtype=np.int32)[None]
        return Batch(ids, positions, starts, pages, positions if all_logits else starts[1:] - np.int32(1))

    def prefill(self) -> float:
        """Seconds of one prompt."""
        batch = self.prompt(PREFILL)
        start = time.perf_counter()
        self.program.run(batch)
        return time.perf_counter() - start


def quality(ours: Player, tensors: RandomTensors, threads: int) -> dict[str, float]:
    """Of the integer products: how far their distributions are from those of the same weights in float32."""
    exact = program_of(tensors.config, tensors, threads, "f32")
    batch = ours.prompt(COMPARED, all_logits=True)
    found, expected = (_log_softmax(program.run(batch)) for program in (ours.program, exact))  # [COMPARED, V]
    kl = (np.exp(expected) * (expected - found)).sum(axis=1)
    agreed = found.argmax(axis=1) == expected.argmax(axis=1)
    return {"kl_divergence": float(kl.mean()), "top1_agreement": float(agreed.mean())}


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return result


def llamacpp_once(programs: Path, model: Path, threads: int) -> dict[tuple[str, int], float]:
    """Tokens per second of prefill and decode."""
    options = ["-t", str(threads), "-p", str(PREFILL), "-n", str(STEPS), "-r", "1", "-fa", "on", "-o", "json"]
    command = [programs / "llama-bench", "-m", model, *options]
    return parse_bench(subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout)


def llamacpp_batches(programs: Path, model: Path, threads: int) -> list[dict[str, float]]:
    """Tokens per second of so many sequences that decode at once, one run of each."""
    options = ["-npl", ",".join(map(str, PEER_BATCHES)), "-npp", str(PAGE), "-ntg", str(STEPS), "-fa", "on"]
    options += ["-c", str(max(PEER_BATCHES) * 4 * PAGE), "--output-format", "jsonl", "-t", str(threads)]
    command = [programs / "llama-batched-bench", "-m", model, *options]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200).stdout
    rows = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return [{"batch": row["pl"], "tok_s": float(row["speed_tg"])} for row in rows]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = olmoe_config(options.layers)
    assert config.experts is not None
    tensors = RandomTensors(config)
    dense = dense_config(options.layers, config.experts)
    ours = Player(program_of(config, tensors, options.threads), options.layers)
    theirs = Player(program_of(dense, RandomTensors(dense), options.threads), options.layers)
    active, total = active_bytes(tensors)
    dense_active, _ = active_bytes(RandomTensors(dense))
    try:
        programs = llamacpp_programs(cache_folder(), options.llamacpp, ("llama-bench", "llama-batched-bench"))
        write_olmoe(tensors, folder / "olmoe.gguf")
    except Missing as error:
        print(f"llama.cpp is left out: {error}", file=sys.stderr)
        programs = None
    rounds: dict[str, list[float]] = {name: [] for name in ("moe", "dense", "limit", "prefill", "peer", "peer_prefill")}
    for _ in range(options.rounds):
        rounds["limit"].append(active / 1e9 / kernels.probe(options.threads, active, 3).read_gb_s)
        rounds["moe"].append(ours.decode(1, STEPS)[0])
        rounds["dense"].append(theirs.decode(1, STEPS)[0])
        rounds["prefill"].append(ours.prefill())
        if programs:
            speeds = llamacpp_once(programs, folder / "olmoe.gguf", options.threads)
            rounds["peer"].append(1 / speeds["decode", 0])
            rounds["peer_prefill"].append(PREFILL / speeds["prefill", PREFILL])
    median = {name: statistics.median(values) for name, values in rounds.items() if values}

    def ratio(dividend: str, divisor: str) -> float:
        """The median of the rounds' own ratios: the machine may change its pace between two rounds."""
        return statistics.median(a / b for a, b in zip(rounds[dividend], rounds[divisor], strict=True))

    batches = {"uniform": sweep(ours)}
    del theirs
    agreement = quality(ours, tensors, options.threads)
    peers = llamacpp_batches(programs, folder / "olmoe.gguf", options.threads) if programs else []
    skewed = RandomTensors(config, skew=SKEW)
    batches["skewed"] = sweep(Player(program_of(config, skewed, options.threads), options.layers))
    return {
        "time_over_limit": ratio("moe", "limit"),
        "dense_over_moe": ratio("dense", "moe"),
        "bytes_ratio": dense_active / active,
        "prefill_over_llamacpp": ratio("peer_prefill", "prefill") if programs else None,
        "decode_over_llamacpp": ratio("peer", "moe") if programs else None,
        **agreement,
        "llamacpp_batches": peers,
        "parameters": sum(rows * cols for rows, cols in tensors.shapes().values()),
        "active_bytes": active,
        "total_bytes": total,
        "prefill_tok_s": PREFILL / median["prefill"],
        "decode_tok_s": 1 / median["moe"],
        "seconds": rounds,
        "batches": batches,
    }


def sweep(player: Player) -> list[dict[str, float]]:
    points = []
    for batch in BATCHES:
        step_s, distinct = player.decode(batch, STEPS)
        points.append({"batch": batch, "step_s": step_s, "distinct_experts": distinct})
    return points


def table(document: dict[str, Any]) -> str:
    lines = [f"{document['parameters'] / 1e9:.2f} B parameters, {document['active_bytes'] / 1e6:.0f} MB a token"]
    for name, points in document["batches"].items():
        lines.append(f"{name} gate: batch, ms per step, tok/s, distinct experts per layer and step")
        for p in points:
            speed = p["batch"] / p["step_s"]
            lines.append(f"{p['batch']:5} {1e3 * p['step_s']:8.2f} {speed:8.1f} {p['distinct_experts']:6.1f}")
    for p in document["llamacpp_batches"]:
        lines.append(f"llama.cpp, {p['batch']} sequences: {p['tok_s']:.1f} tok/s")
    lines.append(
        f"integer products against float32: KL {document['kl_divergence']:.2g}, top-1 {document['top1_agreement']:.1%}"
    )
    return "\n".join(lines)


def draw(document: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # files, no windows
    from matplotlib import pyplot as plt

    figure, (speed, distinct) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for name, points in document["batches"].items():
        xs = [p["batch"] for p in points]
        speed.plot(xs, [p["batch"] / p["step_s"] for p in points], "-o", label=f"{name} gate")
        distinct.plot(xs, [p["distinct_experts"] for p in points], "-o", label=f"{name} gate")
    distinct.plot(xs, [64 * (1 - (1 - 8 / 64) ** x) for x in xs], ":", label="64 (1 - (1 - 8/64)^batch)")
    for axes, label in ((speed, "tok/s"), (distinct, "distinct experts per layer and step")):
        axes.set(xscale="log", xticks=xs, xticklabels=xs, xlabel="batch", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"64 experts, 8 taken, q4_0; {document['machine']}, commit {document['commit']}", fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llamacpp", type=Path, help="folder of llama-bench; without it, it is built once")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farthing-moe-") as folder:
        document = measure(options, Path(folder))
    document |= {"machine": str(this_machine(kernels.instruction_sets()[0])), "commit": commit()}
    print(table(document))
    if options.plot:
        draw(document, options.plot)
    print(json.dumps(document))


if __name__ == "__main__":
    main()

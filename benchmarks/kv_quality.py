"""What codecs of keys and values do to the answers: farthing's gate beside llama.cpp's cache types.

    FARTHING_DATA=… python -m benchmarks.kv_quality [--windows 512,4096,8192] [--tokens 20000] [--llamacpp FOLDER]

Same model, text and windows: `farthing eval kv`, and llama-perplexity's KL divergence with q8_0 and q4_0 caches (flash
attention on; it rotates them) against its own f16 cache. Both multiply in floats, llama.cpp on the weights unpacked to
F16: with integer products the rounding of activations differs too, and covers what the codec does. Both count the
second half of each window. Nothing here is timed. Prints a table; the last line is one JSON document, also written to
benchmarks/results/kv_quality.json; farthing's part is what src/farthing/report/data/kv_gate.json holds.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.build import cache_folder, llamacpp_programs
from benchmarks.peers.models import SMALL_FORMATS, quantized
from farthing.models import load_model

RESULTS = Path(__file__).parent / "results" / "kv_quality.json"
GATE = Path(__file__).parents[1] / "src" / "farthing" / "report" / "data" / "kv_gate.json"
CACHE_TYPES = {"q8_0": 8.5, "q4_0": 4.5}  # bits per value
FIGURES = {
    "kl_divergence": r"Mean\s+KLD:\s+([-\d.]+)",
    "top1_agreement": r"Same top p:\s+([\d.]+)",
    "perplexity": r"Mean PPL\(Q\)\s*:\s+([\d.]+)",
}
Json = dict[str, Any]


def ours(text: Path, windows: list[int], tokens: int) -> Json:
    """`farthing eval kv --json`, in a process of its own."""
    command = [sys.executable, "-m", "farthing", "eval", "kv", "--text", text, "--tokens", tokens, "--json"]
    command += [part for window in windows for part in ("--window", window)]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    found: Json = json.loads(done.stdout)
    return found


def parse(output: str) -> Json:
    """The figures in what llama-perplexity prints; shares 0 to 1. Raises ValueError where one is missing."""
    found: Json = {}
    for name, pattern in FIGURES.items():
        match = re.search(pattern, output)
        if match is None:
            raise ValueError(f"llama-perplexity printed no {name}: {output[-500:]}")
        found[name] = float(match[1])
    found["top1_agreement"] /= 100
    return found


def theirs(programs: Path, model: Path, text: Path, windows: list[int], tokens: int) -> list[Json]:
    rows = []
    for window in windows:
        chunks = max(tokens // window, 1)
        options = [
            "-m",
            model,
            "-f",
            text,
            "-c",
            window,
            "-b",
            window,
            "--chunks",
            chunks,
            "-fa",
            "on",
            "-t",
            2,
            "-ngl",
            0,
        ]
        with tempfile.TemporaryDirectory() as folder:
            base = ["--kl-divergence-base", Path(folder) / "logits"]
            run(programs, [*options, *base])
            for kind, bits in CACHE_TYPES.items():
                output = run(programs, [*options, *base, "--kl-divergence", "-ctk", kind, "-ctv", kind])
                rows.append({"codec": f"llama.cpp {kind}", "window": window, "bits_per_value": bits, **parse(output)})
    return rows


def run(programs: Path, arguments: list[Any]) -> str:
    command = [str(programs / "llama-perplexity"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout


def show(rows: list[Json]) -> None:
    print(
        f"{'window':>6}  {'codec':<16}{'bits':>6}{'KL divergence':>15}{'top-1':>9}{'perplexity':>12}{'retrieved':>11}"
    )
    for row in rows:
        retrieved = f"{row['retrieve_accuracy']:.1%}" if "retrieve_accuracy" in row else ""
        print(
            f"{row['window']:>6,}  {row['codec']:<16}{row['bits_per_value']:>6.2f}{row['kl_divergence']:>15.5f}"
            f"{row['top1_agreement']:>9.2%}{row['perplexity']:>12.3f}{retrieved:>11}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", default="512,4096,8192")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--text", type=Path, help="default: wiki.test.raw in FARTHING_DATA")
    given = os.environ.get("FARTHING_LLAMACPP")
    parser.add_argument("--llamacpp", type=Path, default=Path(given) if given else None, help="folder of its programs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    data = os.environ.get("FARTHING_DATA")
    if args.text is None and data is None:
        parser.error("give --text, or FARTHING_DATA")
    text = args.text or Path(data or "") / "text" / "wiki.test.raw"
    windows = [int(window) for window in args.windows.split(",")]
    model = load_model("smollm2-135m-instruct").path
    programs = llamacpp_programs(cache_folder(), args.llamacpp)
    files = quantized(cache_folder(), programs, model, {"F16": SMALL_FORMATS["F16"]})
    gate = ours(text, windows, args.tokens)
    peers = theirs(programs, files["F16"], text, windows, args.tokens)
    rows = sorted([*gate["codecs"], *peers], key=lambda row: row["window"])
    show(rows)
    GATE.write_text(json.dumps(gate, indent=1) + "\n")
    found = {**gate, "text": text.name, "codecs": rows}
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

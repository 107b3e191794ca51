"""The quantization ladder: what each weight format and method costs in quality, and saves in bytes, time and dollars.

    pip install "farthing[dev,plot]"
    python scripts/train_small.py scratch TEXTS... && python scripts/small_gguf.py scratch scratch-17m.gguf
    python -m benchmarks.ladder --models smollm2-135m-instruct scratch-17m.gguf --calibrate scratch/calibration.txt

Two models: the embedded one, whose weights were 4-bit before (its own q4_1 is lossless by construction), and one in
full precision whose widths are multiples of 256, as llama.cpp wants them for its k- and i-types (of SmolLM2 most
tensors fall back to larger types there: look at its real bits per weight). Quality: perplexity, KL divergence from
the same model in float32 and top-1 agreement on windows of wiki.test.raw, ours with integer products and keys and
values in f16, as llama.cpp: its types are made and measured by its own programs, with and without its importance
matrix, from the same calibration text (of which it takes 32,768 tokens). Speeds: prefill of 512 tokens and decode of
one sequence, interleaved rounds, medians; dollars by the machine's price, blended over the waterfall's workload. Files
of rungs are made once, into the cache folder of benchmarks.peers (the first run takes that much longer); llama.cpp is
built there once. Nothing else should run meanwhile. Prints tables and verdicts; the last line is one JSON document,
also in results/ladder.json.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in `farthing quantize`: threads of its own wait by spinning

from benchmarks.ladder_llamacpp import PROGRAMS, Llama, bits_of
from benchmarks.ladder_ours import bits_of_ours, file_of, our_qualities, recipes_of, reference_quality
from benchmarks.ladder_rung import Quality, Rung, Speed, judge, rung_json
from benchmarks.ladder_speed import speeds
from benchmarks.ladder_table import FOUR_BIT_NOTE, table, verdict_lines
from benchmarks.peers.build import Missing, cache_folder, llamacpp_programs
from farthing import kernels
from farthing.economics.cost import HostCost
from farthing.errors import FarthingError
from farthing.models.hub import find_model
from farthing.report.levers import FOUR_BIT
from farthing.report.machine import commit, this_machine
from farthing.tuning.losses import Losses

RESULTS = Path(__file__).parent / "results" / "ladder.json"
Json = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Setting:
    calibration: Path
    text: Path
    num_windows: int
    num_tokens: int  # of calibration
    rounds: int
    threads: int
    cache: Path
    only: tuple[str, ...]  # of our formats; empty: all
    llama: Llama | None


@dataclass(frozen=True)
class Found:
    rungs: tuple[Rung, ...]
    perplexity: float  # of the source in float32
    llama_perplexity: float | None
    making_s: float


def measure(source: Path, s: Setting) -> Found:
    """All rungs of one model."""
    ours, making_s, losses = list[tuple[Rung, Path]](), 0.0, dict[Path, Losses]()
    for recipe in recipes_of(source):
        if s.only and recipe.name not in s.only:
            continue
        try:
            path, seconds = file_of(recipe, source, s.calibration, s.cache, s.num_tokens, losses)
        except FarthingError as error:
            say(f"left out: {recipe.name} {recipe.full_method}: {error}")
            continue
        making_s += seconds
        say(f"{source.stem}: {path.name}" + (f" made in {seconds:.0f} s" if seconds else ""))
        size = path.stat().st_size
        ours.append((Rung(source.stem, recipe.name, recipe.full_method, bits_of_ours(path), size, NOTHING), path))
    text = s.text.read_bytes()
    reference = reference_quality(source, text, s.num_windows, s.threads)
    rungs = [replace(r, quality=q) for r, q in our_qualities(ours, source, text, s.num_windows, s.threads)]
    theirs, their_paths, llama_reference = their_rungs(source, s)
    rungs += theirs
    if s.rounds:
        rungs = timed(rungs, {r.format: path for r, path in ours}, their_paths, s)
    return Found(tuple(rungs), reference, llama_reference, making_s)


NOTHING = Quality(0.0, 0.0, 0.0)  # until it is measured


def their_rungs(source: Path, s: Setting) -> tuple[list[Rung], dict[str, Path], float | None]:
    """llama.cpp's rungs, a file of each type, and the perplexity that it finds for the source in float32."""
    if s.llama is None:
        return [], {}, None
    rungs: list[Rung] = []
    paths: dict[str, Path] = {}
    base, perplexity = s.llama.base(source, s.text, s.num_windows)
    for item in s.llama.files(source, s.calibration):
        try:
            quality = s.llama.quality(item.path, base, s.text, s.num_windows)
        except Missing as error:
            say(f"left out: {item.format} {item.method}: {error}")
            continue
        say(f"{source.stem}: {item.format} {item.method}: KL {quality.kl_divergence:.5f}")
        size = item.path.stat().st_size
        rungs.append(Rung(source.stem, item.format, item.method, bits_of(item.path), size, quality))
        paths[item.format] = item.path
    return rungs, paths, perplexity


def timed(rungs: Sequence[Rung], ours: dict[str, Path], theirs: dict[str, Path], s: Setting) -> list[Rung]:
    found = speeds(
        {f"ours {name}": path for name, path in ours.items()},
        {f"theirs {name}": path for name, path in theirs.items()},
        s.llama,
        s.rounds,
        s.threads,
    )

    def speed_of(rung: Rung) -> Speed | None:
        return found.get(f"{'ours' if rung.is_ours else 'theirs'} {rung.format}")

    return [replace(rung, speed=speed_of(rung)) for rung in rungs]


def document_of(found: dict[str, Found], sources: dict[str, Path], host: HostCost, s: Setting) -> Json:
    verdicts = [v for of in found.values() for v in judge(of.rungs)]
    return {
        "rungs": [rung_json(host, rung) for of in found.values() for rung in of.rungs],
        "verdicts": [
            {
                "model": v.theirs.model,
                "llama_cpp": v.theirs.name,
                "bits_per_weight": v.theirs.bits_per_weight,
                "ours": v.ours.name if v.ours else None,
                "is_goal": v.is_goal,
                "is_won": v.is_won,
                "is_no_slower": v.is_no_slower,
            }
            for v in verdicts
        ],
        "perplexity_f32": {name: of.perplexity for name, of in found.items()},
        "perplexity_f32_llama_cpp": {name: of.llama_perplexity for name, of in found.items()},
        "notes": {name: FOUR_BIT_NOTE for name, path in sources.items() if is_four_bit_already(path)},
        "making_s": {name: round(of.making_s, 1) for name, of in found.items()},
        "text": s.text.name,
        "windows": s.num_windows,
        "calibration_tokens": s.num_tokens,
        "rounds": s.rounds,
        "threads": s.threads,
        "usd_per_hour": float(host.usd_per_hour),
        "usd_per_hour_source": host.source,
        "machine": str(this_machine(kernels.instruction_sets()[0])),
        "commit": commit(),
    }


def is_four_bit_already(path: Path) -> bool:
    from farthing.models.gguf import read_gguf

    formats = [tensor.format for tensor in read_gguf(path).tensors.values() if tensor.rows > 1]
    return statistics.mode(formats) in FOUR_BIT


def llama_of(args: argparse.Namespace, cache: Path) -> Llama | None:
    if args.without_llamacpp:
        return None
    try:
        return Llama(llamacpp_programs(cache, args.llamacpp, PROGRAMS), cache, args.threads)
    except Missing as error:
        say(f"llama.cpp is left out: {error}")
        return None


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given, data = os.environ.get("FARTHING_LLAMACPP"), os.environ.get("FARTHING_DATA")
    parser.add_argument("--models", nargs="+", default=["smollm2-135m-instruct"], help="names or GGUF files")
    parser.add_argument("--calibrate", type=Path, required=True, help="text to calibrate on; not the test's")
    default_text = Path(data) / "text" / "wiki.test.raw" if data else None
    parser.add_argument("--text", type=Path, default=default_text, help="wiki.test.raw; FARTHING_DATA names its folder")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens")
    parser.add_argument("--tokens", type=int, default=16_384, help="of the calibration text, for ours")
    parser.add_argument("--rounds", type=int, default=3, help="of speeds; 0: none")
    parser.add_argument("--only", default="", metavar="A,B", help="only these of our formats, and mixtures as mix 3.5")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llamacpp", type=Path, default=Path(given) if given else None, help="folder of its programs")
    parser.add_argument("--without-llamacpp", action="store_true")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.text is None:
        parser.error("give --text, or set FARTHING_DATA to the folder that has text/wiki.test.raw")
    return args


def main() -> None:
    args = parsed()
    began = time.perf_counter()
    cache, host = cache_folder(), HostCost()
    only = tuple(name.strip() for name in args.only.split(",") if name.strip())
    llama = llama_of(args, cache)
    setting = Setting(
        args.calibrate, args.text, args.windows, args.tokens, args.rounds, args.threads, cache, only, llama
    )
    sources = {path.stem: path for path in map(find_model, args.models)}
    found = {name: measure(path, setting) for name, path in sources.items()}
    document = document_of(found, sources, host, setting)
    document["seconds"] = round(time.perf_counter() - began, 1)
    for name, of in found.items():
        print(f"\n{name}: perplexity in float32 {of.perplexity:.3f}, by llama.cpp {of.llama_perplexity}")
        if name in document["notes"]:
            print(document["notes"][name])
        print(table(host, of.rungs))
        print("\n".join(verdict_lines(judge(of.rungs))))
    args.out.write_text(json.dumps(document, indent=1) + "\n")
    if args.plot:
        from benchmarks.ladder_plot import draw

        draw(document, args.plot)
    print(json.dumps(document))


if __name__ == "__main__":
    main()

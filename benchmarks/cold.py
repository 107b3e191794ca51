"""Bringing a prompt's pages back from the cold tier, beside computing them: same model, prompts and machine.

    python benchmarks/cold.py [--rounds 5] [--lengths 512 2048 8176]

Four ways to one output token after a prompt: compute the prompt; bring its pages back from memory; from disk, with the
file in the system's page cache; from disk, with the file dropped from it (posix_fadvise; checked with mincore).
Before each, all pages are pushed out of the hot pool. `bring back` is the tier's own time (finding, reading, checking,
copying); `request` is from submit to the answer, the last page's tokens and one output token included. Rounds are
interleaved, medians. Tokens must be identical, or the run fails. Nothing else should run meanwhile.
Prints a table; the last line is one JSON document, also written to benchmarks/results/cold.json.
"""

import argparse
import ctypes
import json
import mmap
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from farthing.engine import Engine, EngineConfig
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.report.machine import commit, this_machine
from farthing.request import Request, SamplingParams

HERE = Path(__file__).parent
WAYS = ("computed", "memory", "disk, in page cache", "disk, dropped")
COLD_BYTES = 1 << 30


def push_out(engine: Engine) -> None:
    """Every warm page leaves the hot pool, for the tier where there is one."""
    lease = engine.cache.match([0])
    engine.cache.grow(lease, engine.cache.num_available * engine.cache.page_size)
    engine.cache.release(lease)


def drop_from_page_cache(folder: Path) -> float:
    """Have the system forget what it holds of the folder's files; the share that it holds still."""
    num_pages = num_cached = 0
    for path in folder.glob("*.cold"):
        with path.open("r+b") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0) as view:
                is_cached = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
                address = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
                failed = ctypes.CDLL(None).mincore(
                    ctypes.c_void_p(address), ctypes.c_size_t(len(view)), is_cached.ctypes.data_as(ctypes.c_void_p)
                )
                if failed:
                    sys.exit("mincore does not say what is in the page cache")
                num_pages += len(is_cached)
                num_cached += int((is_cached & 1).sum())
    return num_cached / num_pages


class Bench:
    """The engines, and what was measured: by (length, way)."""

    def __init__(self, model: Model, threads: int, folder: Path, lengths: list[int]) -> None:
        self.folder = folder
        pages = {"num_threads": threads, "max_num_seqs": 1, "num_pages": -(-(max(lengths) + 1) // 16)}
        disk = Engine(model, EngineConfig(**pages, cold_bytes=COLD_BYTES, cold_folder=folder))
        self.engines = {
            "computed": Engine(model, EngineConfig(**pages, is_prefix_cached=False)),
            "memory": Engine(model, EngineConfig(**pages, cold_bytes=COLD_BYTES)),
            "disk, in page cache": disk,
            "disk, dropped": disk,
        }
        self.request_s: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.restore_s: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.tokens: dict[int, tuple[int, ...]] = {}
        self.keep_s_per_page: dict[str, float] = {}
        self.share_cached = 0.0  # of the files, at most, after they were dropped
        chance = np.random.default_rng(1)
        params = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
        size = model.config.vocab_size
        self.requests = {
            length: Request(token_ids=tuple(chance.integers(0, size, length).tolist()), params=params)
            for length in lengths
        }

    def prepare(self) -> None:
        """Compute every prompt once, so that the tiers have it, and the engines are warm."""
        for way in ("computed", "memory", "disk, in page cache"):
            for length, request in self.requests.items():
                [done] = self.engines[way].generate([request])
                if self.tokens.setdefault(length, done.token_ids) != done.token_ids:
                    sys.exit(f"{length} tokens: the answers differ")
                push_out(self.engines[way])
            stats = self.engines[way].cold_stats()
            if stats.num_kept_pages:
                self.keep_s_per_page[way] = stats.keep_s / stats.num_kept_pages

    def measure(self, length: int, way: str) -> None:
        engine, request = self.engines[way], self.requests[length]
        push_out(engine)
        if way == "disk, dropped":
            self.share_cached = max(self.share_cached, drop_from_page_cache(self.folder))
        elif way == "disk, in page cache":  # read once, so that it is there
            engine.generate([request])
            push_out(engine)
        before = engine.cold_stats().restore_s
        started = time.perf_counter()
        [done] = engine.generate([request])
        self.request_s[length, way].append(time.perf_counter() - started)
        self.restore_s[length, way].append(engine.cold_stats().restore_s - before)
        expected = 0 if way == "computed" else (length - 1) // 16 * 16
        if done.token_ids != self.tokens[length] or done.usage.cache_read_tokens != expected:
            sys.exit(f"{length} tokens, {way}: {done.usage.cache_read_tokens} tokens came back, {expected} should have")

    def rows(self) -> list[dict[str, object]]:
        page_bytes = self.engines["computed"].program.pages.shape[1]
        rows: list[dict[str, object]] = []
        for length, way in self.request_s:
            request_s = statistics.median(self.request_s[length, way])
            computed_s = statistics.median(self.request_s[length, "computed"])
            row: dict[str, object] = {"tokens": length, "way": way, "request_s": request_s}
            row |= {"request_s_all": self.request_s[length, way], "request_ratio": computed_s / request_s}
            if way != "computed":
                restore_s = statistics.median(self.restore_s[length, way])
                num_bytes = (length - 1) // 16 * page_bytes
                row |= {"bring_back_s": restore_s, "bring_back_s_all": self.restore_s[length, way]}
                row |= {"bytes": num_bytes, "gb_s": num_bytes / restore_s / 1e9, "ratio": computed_s / restore_s}
            rows.append(row)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8176])
    parser.add_argument("--folder", type=Path, help="where the files are made (default: the system's temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(load_model(args.model), args.threads, Path(folder), args.lengths)
        bench.prepare()
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            for length in args.lengths:
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    bench.measure(length, way)
        rows = bench.rows()
        for engine in bench.engines.values():
            engine.close()
    print(
        f"{'tokens':>6}  {'':20}  {'bring back':>10}  {'':>8}  {'x computed':>10}  {'request':>9}  {'x computed':>10}"
    )
    for row in rows:
        line = f"{row['tokens']:6}  {row['way']:20}  "
        if "bring_back_s" in row:
            line += f"{row['bring_back_s'] * 1e3:7.2f} ms  {row['gb_s']:3.1f} GB/s  {row['ratio']:8.0f} x  "
        else:
            line += " " * 36
        print(line + f"{row['request_s'] * 1e3:6.1f} ms  {row['request_ratio']:8.1f} x")
    print(f"of the files dropped from the page cache, {bench.share_cached:.1%} were still there")
    for way, seconds in bench.keep_s_per_page.items():
        print(f"pushing a page out to {way.partition(',')[0]}: {seconds * 1e6:.0f} us")
    document = {"rows": rows, "share_cached_after_drop": bench.share_cached, "keep_s_per_page": bench.keep_s_per_page}
    document |= {"rounds": args.rounds, "threads": args.threads, "model": args.model}
    document |= {"machine": str(this_machine(instruction_sets()[0])), "commit": commit()}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "cold.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()

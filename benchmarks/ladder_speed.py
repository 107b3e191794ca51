"""How fast the rungs are: farthing and llama.cpp in turn, round after round, so that both meet the same machine.

Speed hangs on the format, not on the method that chose its codes: one file of each format is timed.
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.ladder_llamacpp import Llama
from benchmarks.ladder_rung import Speed
from farthing.models import load_model
from farthing.report.machine import free_memory
from farthing.report.speed import Bench, Work

__all__ = ["speeds"]

WORKS = (Work("prefill", 1, 512), Work("decode", 1, 0))


def speeds(
    ours: Mapping[str, Path], theirs: Mapping[str, Path], llama: Llama | None, rounds: int, threads: int
) -> dict[str, Speed]:
    """Medians of the rounds, by name of the file's format."""
    found: dict[str, list[Speed]] = {name: [] for name in (*ours, *theirs)}
    turns: list[tuple[str, Callable[[], Speed]]] = []
    for name, path in ours.items():
        turns.append((name, lambda path=path: our_speed(path, threads)))  # type: ignore[misc]
    if llama is not None:
        for name, path in theirs.items():
            turns.append((name, lambda path=path: llama.speed(path)))  # type: ignore[misc]
    for number in range(rounds):
        # Every third of ours, then of theirs: neighbours in time, and another first one in each round.
        order = sorted(range(len(turns)), key=lambda i: ((i * 7 + number * 3) % len(turns), i))
        for index in order:
            name, measure = turns[index]
            found[name].append(measure())
    return {name: _median(of) for name, of in found.items() if of}


def our_speed(path: Path, threads: int) -> Speed:
    free_memory()
    bench = Bench(load_model(str(path)), WORKS, "int8", threads, "f16")
    prefill, decode = (work.num_tokens / statistics.median(bench.seconds(work)) for work in WORKS)
    return Speed(prefill, decode)


def _median(of: list[Speed]) -> Speed:
    return Speed(statistics.median(s.prefill_tok_s for s in of), statistics.median(s.decode_tok_s for s in of))

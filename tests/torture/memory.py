"""Resident memory over time, and when it counts as flat."""

import asyncio
import statistics
from collections.abc import Sequence

from benchmarks.load.processes import memory

__all__ = ["LEAST_LEAK_BYTES", "growth_bytes", "is_flat", "watched"]

# What a request would leave if just one thing of it were kept, a ledger's row (40 fields) with its strings or the
# buffer of an answer: 1 KB and more. So a leak of one thing per request shows as 1 KB times the requests, and what is
# allowed is a quarter of that. Beside it stands what an allocator does on its own: arenas that are still being filled,
# pages that SQLite keeps (2 MB for each connection).
LEAST_LEAK_BYTES = 1024
ALLOCATOR_BYTES = 4 << 20
WARM = 0.25  # of the time, not looked at


async def watched(pid: int, seconds: float, every_s: float) -> list[int]:
    """RSS in bytes, again and again for so long."""
    samples, loop = [], asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        samples.append(memory(pid).rss_bytes)
        await asyncio.sleep(every_s)
    return samples


def growth_bytes(samples: Sequence[int]) -> float:
    """By how much it grew after the warm-up: Theil and Sen's slope (the median of all pairs', so that one jump is no
    trend) times the length."""
    seen = samples[int(WARM * len(samples)) :]
    step = max(1, len(seen) // 200)
    points = list(enumerate(seen))[::step]
    slopes = [(b - a) / (j - i) for k, (i, a) in enumerate(points) for j, b in points[k + 1 :]]
    return statistics.median(slopes) * (len(seen) - 1)


def is_flat(samples: Sequence[int], num_requests: int) -> bool:
    """num_requests: answered in all of the time."""
    return growth_bytes(samples) <= ALLOCATOR_BYTES + (1 - WARM) * num_requests * LEAST_LEAK_BYTES / 4

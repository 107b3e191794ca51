"""Percentiles of many whole numbers in bounded memory: counts in buckets that grow by 2 %, so each is within 1 %."""

from dataclasses import dataclass, field
from math import ceil, log

__all__ = ["MAX_ERROR", "Sketch"]

GROWTH = 1.02
MAX_ERROR = 0.01  # relative: half a bucket
_LOG = log(GROWTH)


@dataclass(slots=True)
class Sketch:
    """Numbers of 0 and more (0 is exact). A number up to 10^18 needs one of about 2,100 buckets."""

    num: int = 0
    _counts: dict[int, int] = field(default_factory=dict)

    def add(self, value: int) -> None:
        bucket = -1 if value <= 0 else max(0, ceil(log(value) / _LOG))
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.num += 1

    def at(self, share: float) -> int | None:
        """The number that `share` of all are at most: its bucket's middle. None where there is none."""
        left = max(1, ceil(share * self.num))
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return 0 if bucket < 0 else round(2 * GROWTH**bucket / (GROWTH + 1))
        return None

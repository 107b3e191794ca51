"""When requests are sent, and what is made of the times that came back."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["ARRIVALS", "Arrivals", "Spread", "added", "arrivals", "percentile"]

Arrivals = Literal["poisson", "fixed"]
ARRIVALS: tuple[Arrivals, ...] = ("poisson", "fixed")


def arrivals(kind: Arrivals, rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Seconds after the start, ascending: round(rate x duration) of them, whatever the answers do (open loop).

    "fixed" has equal gaps. "poisson" are independent users: gaps of a Poisson process, given that just so many came
    (that is, uniform times, sorted), so that every run has the same number.
    """
    number = round(rate_per_s * duration_s)
    if kind == "fixed":
        return [index / rate_per_s for index in range(number)]
    generator = random.Random(seed)
    return sorted(generator.uniform(0, duration_s) for _ in range(number))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least `percent` of the ascending values do not exceed."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True)
class Spread:
    """Of the same unit as the values it was made of."""

    num: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        ordered = sorted(values)
        return cls(len(ordered), *(percentile(ordered, percent) for percent in (50, 95, 99, 100)))


def added(through: Spread, direct: Spread) -> dict[str, float]:
    """What the way through adds to the direct one, percentile by percentile: not the percentiles of a difference."""
    ours, others = asdict(through), asdict(direct)
    return {name: ours[name] - others[name] for name in ours if name != "num"}

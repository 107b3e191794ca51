"""Learn-then-Test (Angelopoulos et al. 2022): the cheapest policy of proven quality, or the best that is affordable.

Policies stand in an order fixed beforehand, from the safest to the boldest. Each is tested on the calibration rows with
a p-value valid for any number of rows; the walk ends at the first that is not proven, so each test may use all of delta
and still the chance that a returned policy misses its target is at most delta. It holds for traffic like the
calibration rows, and for scores whose scorer never saw their labels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.pvalues import mean_above_p

__all__ = ["Goal", "Outcome", "Proven", "prove"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Goal:
    """What must hold on average: quality at least `target` ("quality"), quality at least `target` times that of the
    dearest model ("share"), or cost at most `target` ("cost"); wrong with a chance of at most delta."""

    kind: Literal["quality", "share", "cost"]
    target: float
    delta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise InvalidRequest(f"delta is {self.delta}; allowed: between 0 and 1, such as 0.1")
        if self.kind != "cost" and not 0 < self.target < 1:
            raise InvalidRequest(f"target {self.kind} is {self.target}; allowed: between 0 and 1, such as 0.95")
        if self.kind == "cost" and not (np.isfinite(self.target) and self.target > 0):
            raise InvalidRequest(f"target cost is {self.target}; allowed: a cost per request above 0")


@dataclass(frozen=True)
class Outcome:
    """What a policy gives on the calibration rows: per row the quality and the cost; `best`: the dearest's quality."""

    quality: Vector
    cost: Vector
    best: Vector
    min_cost: float  # of any request under any policy
    max_cost: float


@dataclass(frozen=True)
class Proven:
    """`price` of the policy that was proven. None: none was, not even the safest; then nothing is promised."""

    goal: Goal
    price: float | None
    p_value: float
    quality: float  # means on the calibration rows
    cost: float
    num_rows: int


def prove(goal: Goal, prices: Sequence[float], outcome: Callable[[float], Outcome]) -> Proven:
    """The boldest policy proven. `prices` rise from the dearest to the cheapest; these rows did not choose them."""
    order = list(prices) if goal.kind != "cost" else list(reversed(prices))
    last: Proven | None = None
    for price in order:
        found = outcome(price)
        is_certain = goal.kind == "share" and price == float("-inf")  # the dearest has all of its own quality
        p_value = 0.0 if is_certain else _p_value(goal, found)
        tested = Proven(goal, price, p_value, float(found.quality.mean()), float(found.cost.mean()), len(found.quality))
        if p_value > goal.delta:
            return last or Proven(goal, None, p_value, tested.quality, tested.cost, tested.num_rows)
        last = tested
    if last is None:
        raise InvalidRequest("no policies to prove anything of")
    return last


def _p_value(goal: Goal, found: Outcome) -> float:
    if goal.kind == "quality":
        return mean_above_p(found.quality, goal.target)
    if goal.kind == "share":  # quality - target · best lies in [-target, 1]
        return mean_above_p((found.quality - goal.target * found.best + goal.target) / (1 + goal.target), _zero(goal))
    if goal.target >= found.max_cost:
        return 0.0
    width = found.max_cost - found.min_cost
    return mean_above_p((found.max_cost - found.cost) / width, (found.max_cost - goal.target) / width)


def _zero(goal: Goal) -> float:
    return goal.target / (1 + goal.target)

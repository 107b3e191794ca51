"""What every candidate price gives: the quality-cost curve, with intervals, beside random calls of the same cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.router.calibrate import Outcome
from farthing.router.labelled import Labelled
from farthing.router.policy import checked_costs, choose, escalates, spent

__all__ = ["Point", "cascade_outcome", "curve", "route_outcome"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    price: float
    share: float  # of requests that the cheapest model's answer does not serve
    cost: float
    quality: float
    low: float  # 95 %
    high: float
    random: float  # quality of the cheapest and the dearest mixed by lot, at the same cost


def route_outcome(rows: Labelled, quality: Matrix) -> Callable[[float], Outcome]:
    """From the expected `quality` [n, k] of rows: what each price gives."""
    costs = checked_costs(rows.costs)

    def outcome(price: float) -> Outcome:
        return _outcome(rows, choose(quality, costs, price), costs, is_cascade=False)

    return outcome


def cascade_outcome(rows: Labelled, p_right: Matrix, next_quality: float) -> Callable[[float], Outcome]:
    """The first model is always called, its answer kept or the second asked."""
    costs = checked_costs(rows.costs)

    def outcome(price: float) -> Outcome:
        chosen = escalates(p_right, next_quality, float(costs[1]), price).astype(np.int64)
        return _outcome(rows, chosen, costs, is_cascade=True)

    return outcome


def curve(rows: Labelled, outcome: Callable[[float], Outcome], prices: Sequence[float]) -> tuple[Point, ...]:
    points = []
    small, large = rows.quality[:, 0].mean(), rows.quality[:, -1].mean()
    for price in prices:
        found = outcome(price)
        half = 1.96 * float(found.quality.std()) / len(rows) ** 0.5
        quality, cost = float(found.quality.mean()), float(found.cost.mean())
        part = np.clip((cost - rows.costs[0]) / (rows.costs[-1] - rows.costs[0]), 0, 1)
        share = float((found.cost > rows.costs[0]).mean())
        random = float(small + part * (large - small))
        points.append(Point(price, share, cost, quality, max(quality - half, 0.0), min(quality + half, 1.0), random))
    return tuple(points)


def _outcome(rows: Labelled, chosen: NDArray[np.int64], costs: Matrix, is_cascade: bool) -> Outcome:
    quality = rows.quality[np.arange(len(rows)), chosen]
    dearest = float(costs[0] + costs[1] if is_cascade else costs[-1])
    best = rows.quality[:, 1 if is_cascade else -1]
    return Outcome(quality, spent(chosen, costs, is_cascade), best, float(costs[0]), dearest)

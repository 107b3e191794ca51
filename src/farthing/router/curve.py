"""What every candidate price gives: the quality-cost curve, with intervals, beside random calls of the same cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.router.calibrate import Outcome
from farthing.router.labelled import Labelled
from farthing.router.policy import checked_costs, choose, next_model, spent, worths

__all__ = ["Checked", "Point", "cascade_outcome", "curve", "route_outcome"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Checked:
    """One model's answers to rows, as a cascade sees them."""

    p_right: Matrix  # [n]
    next_quality: Sequence[float]  # expected of the models after it, as many as may be asked
    spread: tuple[float, ...] = ()  # as Check.spread

    def take(self, rows: NDArray[np.int64]) -> "Checked":
        return Checked(self.p_right[rows], self.next_quality, self.spread)


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
        chosen = choose(quality, costs, price)
        quality_of = rows.quality[np.arange(len(rows)), chosen]
        return Outcome(quality_of, spent(chosen, costs), rows.quality[:, -1], float(costs[0]), float(costs[-1]))

    return outcome


def cascade_outcome(rows: Labelled, checked: Mapping[int, Checked]) -> Callable[[float], Outcome]:
    """The first model is called, its answer kept or a dearer one asked; whose answer is checked in its turn, where
    `checked` has that model. Every answer is paid."""
    costs = checked_costs(rows.costs)
    last = len(checked[0].next_quality)  # the dearest that may be asked

    def outcome(price: float) -> Outcome:
        at = np.zeros(len(rows), np.int64)
        cost = np.full(len(rows), float(costs[0]))
        for number in sorted(checked):
            found = checked[number]
            spreads = {other - number - 1: checked[other].spread for other in checked if other > number}
            after = costs[number + 1 : number + 1 + len(found.next_quality)]
            step = next_model(found.p_right, worths(found.next_quality, after.tolist(), spreads, price), price)
            moves = (at == number) & (step > 0)
            at[moves] += step[moves]
            cost[moves] += costs[at[moves]]
        most = float(costs[last] + sum(costs[number] for number in checked if number < last))
        return Outcome(rows.quality[np.arange(len(rows)), at], cost, rows.quality[:, last], float(costs[0]), most)

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

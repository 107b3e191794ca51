"""Stages one after the other: each keeps what it is sure of, the rest goes on; every stage that was asked is paid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from farthing.engine.cascade_rule import walk

__all__ = ["Outcome", "Stage", "choose_thresholds", "serve"]

Vector = NDArray[np.float64]
NUM_CUTS = 50
Z90 = 1.2816  # standard errors, one-sided


@dataclass(frozen=True)
class Stage:
    """What one model would do with each row. is_heard: what it says is part of later stages' answers, so that it is
    asked, and paid, even where it keeps nothing."""

    name: str
    right: NDArray[np.bool_]
    confidence: Vector
    usd: Vector
    seconds: Vector
    is_heard: bool = False

    def take(self, rows: NDArray[np.int64]) -> "Stage":
        parts = {name: getattr(self, name)[rows] for name in ("right", "confidence", "usd", "seconds")}
        return replace(self, **parts)


@dataclass(frozen=True)
class Outcome:
    right: NDArray[np.bool_]
    usd: Vector
    seconds: Vector
    shares: tuple[float, ...]  # of the rows that each stage answers
    asked: tuple[float, ...]  # of the rows that each stage is asked


def serve(stages: Sequence[Stage], thresholds: Sequence[float]) -> Outcome:
    """A row is answered by the first stage whose confidence reaches its threshold; by the last one otherwise. An
    infinite threshold keeps nothing."""
    num = len(stages[0].right)
    found = walk(
        num,
        [float(threshold) if threshold < np.inf else None for threshold in thresholds],
        [stage.is_heard for stage in stages],
        lambda stage, rows: stages[stage].confidence[rows],
    )
    usd, seconds = np.zeros(num), np.zeros(num)
    for stage, rows in zip(stages, found.asked, strict=True):
        usd[rows] += stage.usd[rows]
        seconds[rows] += stage.seconds[rows]
    right = np.array([stage.right for stage in stages])[found.stages, np.arange(num)]
    return Outcome(right, usd, seconds, found.answered_shares(), found.asked_shares())


def choose_thresholds(stages: Sequence[Stage], target: float | NDArray[np.bool_]) -> tuple[float, ...]:
    """The cheapest thresholds that reach the target on these rows: an accuracy, or, of the rows that another model is
    right on, that the cascade is no worse with 90 % confidence. Of thousands of thresholds the cheapest that are just
    as good are so by chance, and a little worse on other rows. The last stage answers what is left, and everything
    where nothing reaches the target."""
    cuts = [np.unique(np.quantile(stage.confidence, np.linspace(0, 1, NUM_CUTS + 1))) for stage in stages[:-1]]
    best, best_usd = tuple([np.inf] * len(cuts)), np.inf
    for thresholds in product(*([*cut, np.inf] for cut in cuts)):
        found = serve(stages, thresholds)
        if _is_reached(found.right, target) and found.usd.mean() < best_usd:
            best, best_usd = thresholds, float(found.usd.mean())
    return tuple(map(float, best))


def _is_reached(right: NDArray[np.bool_], target: float | NDArray[np.bool_]) -> bool:
    if not isinstance(target, np.ndarray):
        return bool(right.mean() >= target)
    lead = right.astype(np.float64) - target
    return bool(lead.mean() >= Z90 * lead.std() / np.sqrt(len(lead)))

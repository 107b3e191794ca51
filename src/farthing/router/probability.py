"""Scores made into probabilities, and whether they are: Platt's curve for few rows, isotonic steps for many."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["Isotonic", "Platt", "Reliability", "fit_isotonic", "fit_platt", "reliability"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Platt:
    """1 / (1 + exp(-(slope · score + offset)))."""

    slope: float
    offset: float

    def __call__(self, scores: Vector) -> Vector:
        return np.asarray(1 / (1 + np.exp(-np.clip(self.slope * scores + self.offset, -35, 35))))


@dataclass(frozen=True)
class Isotonic:
    """A rising curve through points; level beyond its ends."""

    scores: Vector
    values: Vector

    def __call__(self, scores: Vector) -> Vector:
        return np.interp(scores, self.scores, self.values)


def fit_platt(scores: Vector, outcomes: Vector) -> Platt:
    """By Newton's method on the log loss, targets drawn in as Platt did, so that no outcome is certain."""
    _check(scores, outcomes)
    num_right = outcomes.sum()
    high, low = (num_right + 1) / (num_right + 2), 1 / (len(outcomes) - num_right + 2)
    targets = low + outcomes * (high - low)
    center, scale = scores.mean(), scores.std() or 1.0
    design = np.stack([(scores - center) / scale, np.ones(len(scores))], axis=1)
    found = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ found, -35, 35)))
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, design.T @ (targets - chance))
        found = found + step * min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    slope = float(found[0] / scale)
    return Platt(slope, float(found[1] - slope * center))


def fit_isotonic(scores: Vector, outcomes: Vector) -> Isotonic:
    """Least squares among rising curves (pool adjacent violators)."""
    _check(scores, outcomes)
    levels, first = np.unique(scores, return_inverse=True)
    weights = np.bincount(first).astype(np.float64)
    means = np.bincount(first, outcomes) / weights
    pools: list[list[float]] = []  # value, weight, number of levels
    for value, weight in zip(means, weights, strict=True):
        pools.append([value, weight, 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            value_b, weight_b, num_b = pools.pop()
            value_a, weight_a, num_a = pools.pop()
            both = weight_a + weight_b
            pools.append([(value_a * weight_a + value_b * weight_b) / both, both, num_a + num_b])
    values = np.repeat([pool[0] for pool in pools], [int(pool[2]) for pool in pools])
    ends = np.flatnonzero(np.diff(values, prepend=np.nan, append=np.nan) != 0)  # of each level piece
    keep = np.unique(np.concatenate([ends[:-1], ends[1:] - 1]))
    return Isotonic(levels[keep], values[keep])


@dataclass(frozen=True)
class Reliability:
    predicted: Vector  # mean of each bin of equally many rows
    observed: Vector
    error: float  # expected calibration error: mean distance of the two
    brier: float


def reliability(predicted: Vector, outcomes: Vector, num_bins: int = 10) -> Reliability:
    _check(predicted, outcomes)
    bins = np.array_split(np.argsort(predicted, kind="stable"), min(num_bins, len(predicted)))
    means = np.array([[predicted[rows].mean(), outcomes[rows].mean()] for rows in bins])
    sizes = np.array([len(rows) for rows in bins]) / len(predicted)
    error = float((np.abs(means[:, 0] - means[:, 1]) * sizes).sum())
    return Reliability(means[:, 0], means[:, 1], error, float(((predicted - outcomes) ** 2).mean()))


def _check(scores: Vector, outcomes: Vector) -> None:
    if scores.shape != outcomes.shape or scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
        raise InvalidRequest(f"{scores.shape} scores for {outcomes.shape} outcomes: one finite score each, two or more")

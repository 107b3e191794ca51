"""Whether traffic still is what a router was trained on: the population stability index of a few signals.

A threshold is a quantile of traffic; when the mix changes, neither its cost nor its quality needs to hold. For each
signal the training rows' deciles are kept; PSI = sum over bins of (live - base) · log(live / base). An alarm needs two
things: a PSI that is worth one, and a difference that chance alone makes once in ALARM_ODDS looks (chi-squared of two
samples; PSI itself has too heavy a tail for that where rows are few).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["Baseline", "Drift", "baseline", "drift"]

Vector = NDArray[np.float64]
NUM_BINS = 10
ALARM_ODDS = 10_000
MIN_PSI = 0.05  # smaller changes move no threshold that matters
MIN_LIVE = 50


@dataclass(frozen=True)
class Baseline:
    num_rows: int
    edges: Mapping[str, Vector]  # of each signal, rising, without the outermost
    shares: Mapping[str, Vector]  # of the training rows between them: one more


@dataclass(frozen=True)
class Drift:
    psi: Mapping[str, float]
    chi_squared: Mapping[str, float]
    chance_limit: Mapping[str, float]  # that chi-squared must exceed
    num_rows: int

    @property
    def alarms(self) -> tuple[str, ...]:
        """The signals that have changed."""
        return tuple(
            name for name in self.psi if self.psi[name] > MIN_PSI and self.chi_squared[name] > self.chance_limit[name]
        )


def baseline(signals: Mapping[str, Vector]) -> Baseline:
    inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
    edges = {name: np.unique(np.quantile(values, inner)) for name, values in signals.items()}
    shares = {name: _shares(values, edges[name]) for name, values in signals.items()}
    return Baseline(len(next(iter(signals.values()))), edges, shares)


def drift(base: Baseline, signals: Mapping[str, Vector]) -> Drift:
    """Of the same signals on live traffic. Raises InvalidRequest below MIN_LIVE rows: nothing could be said."""
    num_rows = len(next(iter(signals.values())))
    if num_rows < MIN_LIVE or signals.keys() != base.edges.keys():
        raise InvalidRequest(
            f"{num_rows} rows of {', '.join(signals)}; drift needs {MIN_LIVE} or more of {', '.join(base.edges)}"
        )
    psi, found, limit = {}, {}, {}
    for name, edges in base.edges.items():
        live, was = _shares(signals[name], edges), base.shares[name]
        pooled = (num_rows * live + base.num_rows * was) / (num_rows + base.num_rows)
        both = pooled > 0
        part = (live[both] - was[both]) ** 2 / pooled[both]
        found[name] = float(part.sum() / (1 / num_rows + 1 / base.num_rows))
        limit[name] = _chi_squared(len(edges), 1 / (ALARM_ODDS * len(base.edges)))
        live, was = (np.maximum(shares, 0.5 / num_rows) for shares in (live, was))
        psi[name] = float(((live - was) * np.log(live / was)).sum())
    return Drift(psi, found, limit, num_rows)


def _shares(values: Vector, edges: Vector) -> Vector:
    return np.asarray(np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / len(values))


def _chi_squared(freedom: int, tail: float) -> float:
    """The quantile above which `tail` lies, by Wilson and Hilferty's cube (within 2 % here)."""
    if freedom < 1:
        return 0.0
    low, high = 0.0, 10.0  # of the normal: bisection on its tail
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _normal_tail(middle) > tail else (low, middle)
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + low * np.sqrt(part)) ** 3)


def _normal_tail(z: float) -> float:
    return 0.5 * erfc(z / sqrt(2))

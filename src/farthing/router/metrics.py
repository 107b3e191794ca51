"""How good a score is at sending the right requests to the large model, and what that costs.

The gap recovered at a share x of large calls, PGR(x) = (quality(x) - small) / (large - small), is a curve from 0 to 1;
its area is APGR (random: 0.5), CPT(p) the least share that recovers p. RouteLLM's scoring code knows the curve at the
deciles of its scores alone and joins them by straight lines; both are given, the exact one unless said.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["Interval", "Pair", "apgr", "bootstrap", "cost_at_quality", "cpt", "routellm_scores", "share_at_quality"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Quality of a small and of a large model's answers to the same prompts: 0 or 1, or anything between."""

    small: Vector
    large: Vector

    def __post_init__(self) -> None:
        if self.small.shape != self.large.shape or self.small.ndim != 1 or not len(self.small):
            raise InvalidRequest(f"qualities of shapes {self.small.shape} and {self.large.shape}: one each per prompt")

    @property
    def gap(self) -> Vector:
        return self.large - self.small

    @property
    def oracle(self) -> Vector:
        """The best score that there is: the gap itself."""
        return self.gap

    def take(self, rows: NDArray[np.int64]) -> "Pair":
        return Pair(self.small[rows], self.large[rows])

    def quality(self, scores: Vector) -> Vector:
        """Mean quality with the i highest scores sent to the large model, i = 0 … n. Equal scores share alike."""
        order = np.argsort(-scores, kind="stable")
        gaps = _levelled(self.gap[order], scores[order])
        return np.asarray(self.small.mean() + np.concatenate([[0.0], np.cumsum(gaps)]) / len(scores))

    def recovered(self, scores: Vector) -> Vector:
        """PGR for i = 0 … n large calls."""
        between = self.gap.mean()
        if abs(between) < 1e-12:
            raise InvalidRequest("both models are equally good on these rows: there is no gap to recover")
        return np.asarray((self.quality(scores) - self.small.mean()) / between)


def apgr(scores: Vector, pair: Pair) -> float:
    return float(_area(pair.recovered(scores), np.linspace(0, 1, len(scores) + 1)))


def cpt(scores: Vector, pair: Pair, part: float) -> float:
    """The least share of large calls that recovers `part` of the gap."""
    return _least(pair.recovered(scores), part)


def share_at_quality(scores: Vector, pair: Pair, quality: float) -> float:
    """The least share of large calls with that mean quality; 1 where none has it (and always-large must do)."""
    return _least(pair.quality(scores), quality)


def cost_at_quality(scores: Vector, pair: Pair, quality: float, costs: tuple[float, float], is_cascade: bool) -> float:
    """Mean cost of a request at the least share that has the quality. A cascade pays for every small answer."""
    share = share_at_quality(scores, pair, quality)
    small, large = costs
    return share * large + (small if is_cascade else (1 - share) * small)


def routellm_scores(scores: Vector, pair: Pair, num_bins: int = 10) -> tuple[float, float, float]:
    """APGR, CPT(50 %) and CPT(80 %) by RouteLLM's convention (its evals/benchmarks.py and evaluate.py)."""
    cuts = np.quantile(scores, np.linspace(0, 1, num_bins + 1))
    points = []
    for number, cut in enumerate(np.unique(cuts)):
        chosen = scores >= cut if number < len(np.unique(cuts)) - 1 else scores > cut
        points.append((chosen.mean(), np.where(chosen, pair.large, pair.small).mean()))
    shares, qualities = np.array(sorted(points)).T
    small, large = pair.small.mean(), pair.large.mean()
    width = shares[-1] - shares[0]
    area = (_area(qualities, shares) - small * width) / ((large - small) * width)
    wanted = [small + part * (large - small) for part in (0.5, 0.8)]
    return float(area), float(np.interp(wanted[0], qualities, shares)), float(np.interp(wanted[1], qualities, shares))


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


def bootstrap(
    measure: Callable[[NDArray[np.int64]], float], num_rows: int, rng: np.random.Generator, num_draws: int = 200
) -> Interval:
    """`measure` of all rows, with the 95 % interval of the same on rows drawn with replacement."""
    drawn = [measure(rng.integers(0, num_rows, num_rows)) for _ in range(num_draws)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(measure(np.arange(num_rows)), float(low), float(high))


def _area(y: Vector, x: Vector) -> float:
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def _least(curve: Vector, wanted: float) -> float:
    reached = np.flatnonzero(curve >= wanted - 1e-12)
    return float(reached[0] / (len(curve) - 1)) if len(reached) else 1.0


def _levelled(gaps: Vector, scores: Vector) -> Vector:
    """Within a run of equal scores every gap counts as their mean: what a coin would get, in expectation."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(scores)) + 1])
    if len(starts) == len(scores):
        return gaps
    sizes = np.diff([*starts, len(scores)])
    return np.repeat(np.add.reduceat(gaps, starts) / sizes, sizes)

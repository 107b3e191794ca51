"""The runs behind benchmarks/router.py: scores of rows by routers that never saw their labels, figures, intervals.

A run is a vector of scores, nan where a row trained the router (or its prompt did, as another row). Figures are means
over runs. An interval is the middle 95 % of: one run by lot, on its rows drawn with replacement.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.router_data import COSTS, Results
from farthing.router.encode import Encoded
from farthing.router.metrics import Interval, Pair, apgr, cost_at_quality, cpt, share_at_quality
from farthing.router.scorers import AFTER_ANSWER, BEFORE_CALL, learn

__all__ = [
    "Figure", "FixedThreshold", "apgr_of", "cascade_runs", "cpt_of", "factor_at", "figure", "fold_runs", "label_runs",
    "subject_runs",
]  # fmt: skip

Vector = NDArray[np.float64]
Rows = NDArray[np.int64]
Figure = Callable[[Vector, Pair], float]
NUM_DRAWS = 300


def label_runs(results: Results, encoded: Encoded, num_labels: int, seeds: Sequence[int]) -> list[Vector]:
    """Expected gaps from `num_labels` random rows, per seed."""
    runs = []
    for seed in seeds:
        train = np.sort(np.random.default_rng(seed).permutation(len(results.rows))[:num_labels])
        runs.append(_scored(results, encoded, train, seed))
    return runs


def subject_runs(results: Results, encoded: Encoded, num_labels: int, seeds: Sequence[int]) -> list[Vector]:
    """The same on subjects that the labels were not of: five groups of subjects per seed, a run for each group.

    Groups are not pooled: where a hard group is left out, its router has learned that questions are easy, so the means
    of pooled groups would run against their gaps.
    """
    runs = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        group = rng.permutation(results.subjects.max() + 1) % 5
        for left_out in range(5):
            is_left_out = group[results.subjects] == left_out
            train = np.sort(rng.permutation(np.flatnonzero(~is_left_out))[:num_labels])
            runs.append(np.where(is_left_out, _scored(results, encoded, train, seed), np.nan))
    return runs


def fold_runs(results: Results, encoded: Encoded, seeds: Sequence[int]) -> list[Vector]:
    """Expected gaps by five-fold cross-validation, per seed."""
    runs = []
    for seed in seeds:
        scores = np.full(len(results.rows), np.nan)
        for train, test in _folds(len(results.rows), seed):
            scores[test] = _scored(results, encoded, train, seed)[test]
        runs.append(scores)
    return runs


@dataclass(frozen=True)
class FixedThreshold:
    """What came of a threshold read off the training folds, on the test folds: nothing is chosen on a test row."""

    quality_share: float  # of the large model's quality
    cost_factor: float  # cheaper than the large model


def cascade_runs(
    results: Results, encoded: Encoded, seeds: Sequence[int], part: float
) -> tuple[list[Vector], list[FixedThreshold]]:
    """One minus the chance that the small model's answer is right, by five-fold cross-validation, per seed."""
    pair, runs, fixed = results.rows.pair, [], []
    for seed in seeds:
        scores, is_large = np.full(len(pair.small), np.nan), np.zeros(len(pair.small), bool)
        for train, test in _folds(len(pair.small), seed):
            learned = learn(encoded.take(train), results.rows.quality[train][:, :1], AFTER_ANSWER, seed)
            scores[test] = 1 - learned.scorer.quality(encoded.take(test))[:, 0]
            seen, known = 1 - learned.left_out[:, 0], pair.take(train)
            share = share_at_quality(seen, known, part * float(known.large.mean()))
            is_large[test] = scores[test] >= np.quantile(seen, 1 - share)
        runs.append(scores)
        quality = np.where(is_large, pair.large, pair.small).mean() / pair.large.mean()
        fixed.append(FixedThreshold(float(quality), COSTS[1] / float(COSTS[0] + is_large.mean() * COSTS[1])))
    return runs, fixed


def apgr_of(scores: Vector, pair: Pair) -> float:
    return apgr(scores, pair)


def cpt_of(part: float) -> Figure:
    return lambda scores, pair: cpt(scores, pair, part)


def factor_at(part: float, is_cascade: bool) -> Figure:
    """How many times cheaper than the large model alone, at `part` of its quality."""

    def factor(scores: Vector, pair: Pair) -> float:
        wanted = part * float(pair.large.mean())
        return COSTS[1] / cost_at_quality(scores, pair, wanted, COSTS, is_cascade)

    return factor


def figure(
    measure: Figure,
    runs: Sequence[Vector],
    pair: Pair,
    rows: NDArray[np.bool_] | None = None,
    num_draws: int = NUM_DRAWS,
) -> Interval:
    """Over the runs, of `rows` alone where given."""
    parts = []
    for scores in runs:
        kept = np.flatnonzero(np.isfinite(scores) & (rows if rows is not None else True))
        parts.append((scores[kept], pair.take(kept)))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(num_draws):
        scores, of_run = parts[rng.integers(len(parts))]
        again = rng.integers(0, len(scores), len(scores))
        drawn.append(measure(scores[again], of_run.take(again)))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(np.mean([measure(*part) for part in parts])), float(low), float(high))


def _scored(results: Results, encoded: Encoded, train: Rows, seed: int) -> Vector:
    learned = learn(encoded.take(train), results.rows.quality[train], BEFORE_CALL, seed)
    quality = learned.scorer.quality(encoded)
    scores = quality[:, -1] - quality[:, 0]
    seen = {results.rows.prompts[i] for i in train}
    scores[[prompt in seen for prompt in results.rows.prompts]] = np.nan
    return np.asarray(scores)


def _folds(num_rows: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    order = np.random.default_rng(seed).permutation(num_rows)
    for fold in range(5):
        test = np.sort(order[fold::5])
        yield np.setdiff1d(order, test), test

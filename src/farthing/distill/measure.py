"""The linear model, the student and the tuned teacher on the same rows: each alone, and one after the other.

In the cascade a stage knows what those before it said, for that was paid already: its distribution is mixed with
theirs (log-probabilities, weighed), and where it is sure enough it answers. Weights and thresholds are chosen on
validation rows, nothing on the held-out ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from farthing.distill.cascade import Stage, choose_thresholds, serve
from farthing.distill.linear import Linear
from farthing.distill.log_softmax import log_softmax
from farthing.distill.result import Cost, Quality, Result, paired, quality
from farthing.engine.classifier import Classifier

__all__ = ["LINEAR", "Rows", "cascade", "classifier_logs", "linear_logs", "results", "together"]

F32 = NDArray[np.float32]
LINEAR = "linear"
WEIGHTS = (0.0, 0.15, 0.3, 0.5)  # of an earlier stage's log-probabilities, beside 1 for the stage's own


@dataclass(frozen=True)
class Rows:
    """What each model says of some rows: log-probabilities [n, k] by name; and what is right."""

    labels: NDArray[np.int64]
    logs: Mapping[str, F32]


def classifier_logs(classifier: Classifier, token_ids: Sequence[Sequence[int]]) -> F32:
    """Log-probabilities [n, k]."""
    return log_softmax(classifier.classify(token_ids).astype(np.float64)).astype(np.float32)


def linear_logs(linear: Linear, texts: Sequence[str]) -> F32:
    return np.log(np.maximum(linear.probabilities(texts), np.float32(1e-12)))


def results(rows: Rows, costs: Mapping[str, Cost], teacher: str) -> list[Result]:
    """Each model alone, in the order of `costs`."""
    right = {name: rows.logs[name].argmax(axis=1) == rows.labels for name in costs}
    found = []
    for name, cost in costs.items():
        against = paired(right[name], right[LINEAR]) if LINEAR in right and name != LINEAR else None
        reference = rows.logs[teacher] if name != teacher and teacher in rows.logs else None
        found.append(Result(name, quality(rows.logs[name], rows.labels, reference), cost, against))
    return found


def cascade(
    chosen_on: Rows, measured: Rows, costs: Mapping[str, Cost], names: Sequence[str], *, is_best: bool = False
) -> Result:
    """Stages `names`, the cheapest first. Thresholds are the cheapest that are surely no worse on the rows that choose
    than the last stage alone; is_best: that reach the highest accuracy that any stage has there with the words of those
    before it."""
    weights = _weights(chosen_on, names)
    before, after = (_stages(rows, costs, names, weights) for rows in (chosen_on, measured))
    alone = chosen_on.logs[names[-1]].argmax(axis=1) == chosen_on.labels
    thresholds = choose_thresholds(before, max(float(stage.right.mean()) for stage in before) if is_best else alone)
    found = serve(after, thresholds)
    right = Quality(len(measured.labels), int(found.right.sum()))
    linear = measured.logs[names[0]].argmax(axis=1) == measured.labels
    cost = _sum(costs, dict(zip(names, found.asked, strict=True)), 0)
    name = " → ".join(names) + (", at its best" if is_best else "")
    return Result(name, right, cost, paired(found.right, linear), found.shares, thresholds, tuple(weights))


def together(chosen_on: Rows, measured: Rows, costs: Mapping[str, Cost], names: Sequence[str]) -> Result:
    """All of `names` asked about every row, and their words mixed: what the last stage would say of everything."""
    weights = _weights(chosen_on, names)[-1]
    right = _mixed(measured, names, weights).argmax(axis=1) == measured.labels
    linear = measured.logs[names[0]].argmax(axis=1) == measured.labels
    cost = _sum(costs, dict.fromkeys(names, 1.0), max(costs[name].num_tokens for name in names))
    found = Quality(len(right), int(right.sum()))
    return Result(" + ".join(names), found, cost, paired(right, linear), weights=(weights,))


def _sum(costs: Mapping[str, Cost], asked: Mapping[str, float], num_tokens: float) -> Cost:
    """Of several models, each asked about a share of the rows; round by round, for they were timed side by side."""
    parts = [(costs[name], share) for name, share in asked.items()]
    rounds = zip(*(cost.rounds for cost, _ in parts), strict=True)
    return Cost(
        sum(share * cost.seconds for cost, share in parts),
        num_tokens,
        sum(cost.weight_bytes for cost, _ in parts),
        tuple(sum(share * s for s, (_, share) in zip(seconds, parts, strict=True)) for seconds in rounds),
    )


def _weights(rows: Rows, names: Sequence[str]) -> list[tuple[float, ...]]:
    """Of each stage, how much the earlier ones' words count: what makes the right labels likeliest."""
    chosen: list[tuple[float, ...]] = []
    for place in range(len(names)):
        ways = list(product(WEIGHTS, repeat=place))
        chances = [_mixed(rows, names[: place + 1], way)[np.arange(len(rows.labels)), rows.labels] for way in ways]
        chosen.append(ways[int(np.argmax([chance.mean() for chance in chances]))])
    return chosen


def _mixed(rows: Rows, names: Sequence[str], weights: Sequence[float]) -> NDArray[np.float64]:
    """Log-probabilities of the last of `names`, mixed with those of the others."""
    total = sum(w * rows.logs[name].astype(np.float64) for w, name in zip((*weights, 1.0), names, strict=True))
    return log_softmax(np.asarray(total))


def _stages(
    rows: Rows, costs: Mapping[str, Cost], names: Sequence[str], weights: Sequence[Sequence[float]]
) -> list[Stage]:
    stages = []
    for place, name in enumerate(names):
        logs = _mixed(rows, names[: place + 1], weights[place])
        seconds = np.full(len(rows.labels), costs[name].seconds)
        right = logs.argmax(axis=1) == rows.labels
        is_heard = any(later[place] > 0 for later in weights[place + 1 :])
        stages.append(Stage(name, right, np.exp(logs.max(axis=1)), seconds, seconds, is_heard))
    return stages

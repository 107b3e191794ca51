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

from farthing.distill.cascade import Stage, choose_thresholds
from farthing.distill.result import Cost, Quality, Result, paired, quality
from farthing.engine.cascade_rule import Decided, decide, heard, mixed, walk
from farthing.models.cascade_file import Point

__all__ = ["LINEAR", "Chosen", "Rows", "choose_point", "choose_points", "measured_cascade", "results", "together"]

F32 = NDArray[np.float32]
LINEAR = "linear"
WEIGHTS = (0.0, 0.15, 0.3, 0.5)  # of an earlier stage's log-probabilities, beside 1 for the stage's own


@dataclass(frozen=True)
class Rows:
    """What each model says of some rows: log-probabilities [n, k] by name; and what is right."""

    labels: NDArray[np.int64]
    logs: Mapping[str, F32]


@dataclass(frozen=True)
class Chosen:
    """Where a cascade works, what it had on the rows that chose it, and the mixing weights of all stages, those that
    the point never asks too."""

    point: Point
    accuracy: float
    seconds: float  # of a request
    weights: tuple[tuple[float, ...], ...]


def results(rows: Rows, costs: Mapping[str, Cost], teacher: str) -> list[Result]:
    """Each model alone, in the order of `costs`."""
    right = {name: rows.logs[name].argmax(axis=1) == rows.labels for name in costs}
    found = []
    for name, cost in costs.items():
        against = paired(right[name], right[LINEAR]) if LINEAR in right and name != LINEAR else None
        reference = rows.logs[teacher] if name != teacher and teacher in rows.logs else None
        found.append(Result(name, quality(rows.logs[name], rows.labels, reference), cost, against))
    return found


def choose_points(rows: Rows, seconds: Mapping[str, float], names: Sequence[str]) -> tuple[Chosen, Chosen]:
    """The cheapest that is surely no worse than the last stage, and the best; see `choose_point`. To be sure may be
    dearer than the best: then that is the cheapest too."""
    cheapest, best = (choose_point(rows, seconds, names, is_best=is_best) for is_best in (False, True))
    return (best if best.seconds < cheapest.seconds else cheapest), best


def choose_point(rows: Rows, seconds: Mapping[str, float], names: Sequence[str], *, is_best: bool = False) -> Chosen:
    """Stages `names`, the cheapest first, each with its seconds a request. Thresholds are the cheapest that are surely
    no worse on these rows than the last stage alone; is_best: that reach the highest accuracy that any stage has there
    with the words of those before it. Stages that none of the rows reaches are left out."""
    weights = _weights(rows, names)
    stages = _stages(rows, seconds, names, weights)
    alone = rows.logs[names[-1]].argmax(axis=1) == rows.labels
    target = max(float(stage.right.mean()) for stage in stages) if is_best else alone
    thresholds = [t if t < np.inf else None for t in choose_thresholds(stages, target)]
    found = walk(len(alone), thresholds, heard(weights), lambda stage, asked: stages[stage].confidence[asked])
    num = 1 + int(found.stages.max())
    point = Point(tuple(weights[:num]), tuple(thresholds[: num - 1]))
    decided = _decided(point, rows, names)
    usd = sum(share * seconds[name] for share, name in zip(decided.walk.asked_shares(), names, strict=False))
    accuracy = float((decided.logs.argmax(axis=1) == rows.labels).mean())
    return Chosen(point, accuracy, float(usd), tuple(weights))


def measured_cascade(
    chosen: Chosen, measured: Rows, cost: Cost, names: Sequence[str], *, is_best: bool = False
) -> Result:
    """What is served at this point says of these rows. A stage that is left out has a share of 0, the one that answers
    in its place a threshold of 0."""
    found = _decided(chosen.point, measured, names)
    is_right = found.logs.argmax(axis=1) == measured.labels
    linear = measured.logs[names[0]].argmax(axis=1) == measured.labels
    name = " → ".join(names) + (", at its best" if is_best else "")
    num_left_out = len(names) - chosen.point.num_stages
    shares = found.walk.answered_shares() + (0.0,) * num_left_out
    thresholds = (*(np.inf if t is None else t for t in chosen.point.thresholds), *(0.0,) * num_left_out)
    right = Quality(len(is_right), int(is_right.sum()))
    return Result(name, right, cost, paired(is_right, linear), shares, thresholds, chosen.weights)


def _decided(point: Point, rows: Rows, names: Sequence[str]) -> Decided:
    num_rows, num_labels = rows.logs[names[0]].shape
    return decide(point, num_rows, num_labels, lambda stage, asked: rows.logs[names[stage]][asked])


def together(chosen_on: Rows, measured: Rows, costs: Mapping[str, Cost], names: Sequence[str]) -> Result:
    """All of `names` asked about every row, and their words mixed: what the last stage would say of everything."""
    weights = _weights(chosen_on, names)[-1]
    right = _mixed(measured, names, weights).argmax(axis=1) == measured.labels
    linear = measured.logs[names[0]].argmax(axis=1) == measured.labels
    cost = _sum([costs[name] for name in names])
    found = Quality(len(right), int(right.sum()))
    return Result(" + ".join(names), found, cost, paired(right, linear), weights=(weights,))


def _sum(costs: Sequence[Cost]) -> Cost:
    """Of several models that are asked about the same row; round by round, for they were timed side by side."""
    return Cost(
        sum(cost.seconds for cost in costs),
        max(cost.num_tokens for cost in costs),
        sum(cost.weight_bytes for cost in costs),
        tuple(map(sum, zip(*(cost.rounds for cost in costs), strict=True))),
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
    return mixed([rows.logs[name] for name in names], weights)


def _stages(
    rows: Rows, seconds: Mapping[str, float], names: Sequence[str], weights: Sequence[Sequence[float]]
) -> list[Stage]:
    stages = []
    for place, (name, is_heard) in enumerate(zip(names, heard(weights), strict=True)):
        logs = _mixed(rows, names[: place + 1], weights[place])
        cost = np.full(len(rows.labels), seconds[name])
        right = logs.argmax(axis=1) == rows.labels
        stages.append(Stage(name, right, np.exp(logs.max(axis=1)), cost, cost, is_heard))
    return stages

"""How a cascade answers: one rule, for what is measured and for what is served.

Stage after stage, the cheapest first, is asked about the rows that those before it did not keep. What it says is mixed
with what they said, and where it is sure enough by then it answers; the last one answers what is left.

    rows ──> linear ──> student ──> teacher         weights     ((), (0.3,), (0.15, 0.5))
              │ >= 0.9    │ >= 0.7    │ the rest    thresholds  (0.9, 0.7)
              v           v           v

A row's answer does not depend on the rows beside it: all sums are over one row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.models.cascade_file import Point
from farthing.models.log_softmax import log_softmax

__all__ = ["Decided", "Walk", "decide", "heard", "mixed", "walk"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Walk:
    """Which stage answers each row [n], and the rows that each stage was asked about."""

    stages: Indices
    asked: tuple[Indices, ...]

    def answered_shares(self) -> tuple[float, ...]:
        """Of the rows, by stage."""
        return tuple(float((self.stages == stage).mean()) for stage in range(len(self.asked)))

    def asked_shares(self) -> tuple[float, ...]:
        return tuple(len(rows) / len(self.stages) for rows in self.asked)


@dataclass(frozen=True)
class Decided:
    """logs: mixed log-probabilities [n, num_labels] of the stage that answers."""

    walk: Walk
    logs: F64


def walk(
    num_rows: int,
    thresholds: Sequence[float | None],
    is_heard: Sequence[bool],
    ask: Callable[[int, Indices], NDArray[np.floating]],
) -> Walk:
    """ask(stage, rows) says how sure the stage is of each row. One that keeps nothing (None) and is not heard by a
    later one is not asked."""
    waiting = np.arange(num_rows)
    stages, asked = np.full(num_rows, len(thresholds), np.int64), []
    for stage in range(len(thresholds) + 1):
        is_last = stage == len(thresholds)
        threshold = None if is_last else thresholds[stage]
        is_asked = is_last or threshold is not None or is_heard[stage]
        asked.append(waiting if is_asked else waiting[:0])
        if not is_asked or not len(waiting):
            continue
        confidence = ask(stage, waiting)
        if threshold is not None:
            is_kept = confidence >= threshold
            stages[waiting[is_kept]] = stage
            waiting = waiting[~is_kept]
    return Walk(stages, tuple(asked))


def decide(point: Point, num_rows: int, num_labels: int, ask: Callable[[int, Indices], F32]) -> Decided:
    """ask(stage, rows) gives the stage's own log-probabilities of these rows, [len(rows), num_labels]."""
    said: list[F32] = [np.zeros((num_rows, num_labels), np.float32) for _ in point.weights]
    logs = np.zeros((num_rows, num_labels))

    def confidence(stage: int, rows: Indices) -> F64:
        said[stage][rows] = ask(stage, rows)
        logs[rows] = mixed([each[rows] for each in said[: stage + 1]], point.weights[stage])
        chances: F64 = np.exp(logs[rows].max(axis=1))
        return chances

    return Decided(walk(num_rows, point.thresholds, heard(point.weights), confidence), logs)


def mixed(said: Sequence[F32], weights: Sequence[float]) -> F64:
    """Log-probabilities [n, num_labels] of the last of `said`, mixed with those of the others."""
    total = sum(weight * logs.astype(np.float64) for weight, logs in zip((*weights, 1.0), said, strict=True))
    return log_softmax(np.asarray(total))


def heard(weights: Sequence[Sequence[float]]) -> list[bool]:
    """Of each stage, whether what it says is part of a later one's answers: then it is asked, and paid, even where it
    keeps nothing."""
    return [any(later[stage] > 0 for later in weights[stage + 1 :]) for stage in range(len(weights))]

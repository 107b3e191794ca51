"""How good each model is on the held-out rows, and what a request to it costs: the rows of the table.

All figures of a row are of the same texts. Intervals are Wilson's; a student is compared with the linear model row by
row (McNemar's exact test), because both are right on most of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.report.compare_stats import mcnemar, wilson

__all__ = [
    "Cost",
    "Paired",
    "Quality",
    "Result",
    "divergence",
    "finite",
    "paired",
    "quality",
    "result_document",
    "times_cheaper",
]

F32 = NDArray[np.float32]
Rows = NDArray[np.bool_]
MILLION = 1_000_000
BY_ROUND = "seconds_per_request_by_round"


@dataclass(frozen=True)
class Quality:
    """kl: nats a row from the tuned teacher's distribution, None of a model without one."""

    num_rows: int
    num_right: int
    kl: float | None = None

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_rows

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.num_right, self.num_rows)


@dataclass(frozen=True)
class Cost:
    """seconds: of this machine, a request; in the median of the rounds. num_tokens: of a request, in the mean; 0 of
    a model that reads no tokens. rounds: seconds a request in each; none where it was one pass alone."""

    seconds: float
    num_tokens: float
    weight_bytes: int
    rounds: tuple[float, ...] = ()

    def usd_per_million(self, host: HostCost) -> Decimal:
        return host.usd(self.seconds * MILLION)


@dataclass(frozen=True)
class Paired:
    """Rows where one of two models alone is right, and the chance of such a lead if both were equally good: of the
    better one, one-sided."""

    only_first: int
    only_second: int

    @property
    def p_value(self) -> float:
        return mcnemar(max(self.only_first, self.only_second), min(self.only_first, self.only_second))

    @property
    def is_first_better(self) -> bool:
        return self.only_first > self.only_second and self.p_value < 0.05

    @property
    def verdict(self) -> str:
        """What the first one is, beside the second."""
        if self.p_value >= 0.05:
            return "not surely better"
        return "better" if self.is_first_better else "worse"


@dataclass(frozen=True)
class Result:
    """A row of the table. against_linear: this model first. shares: of a cascade, the rows that each stage answers.
    weights: of each stage, how much the words of those before it count."""

    name: str
    quality: Quality
    cost: Cost
    against_linear: Paired | None = None
    shares: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    note: str = ""


def quality(log_probs: F32, labels: NDArray[np.int64], teacher: F32 | None = None) -> Quality:
    """Of log-probabilities [n, k]. Raises InvalidRequest where there is nothing to measure on."""
    if len(labels) == 0:
        raise InvalidRequest("there is no held-out row to measure on")
    right = log_probs.argmax(axis=1) == labels
    return Quality(len(labels), int(right.sum()), None if teacher is None else divergence(teacher, log_probs))


def divergence(teacher: F32, student: F32) -> float:
    """Mean KL divergence in nats of the student's distributions from the teacher's, both as log-probabilities."""
    p, q = teacher.astype(np.float64), student.astype(np.float64)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def paired(first: Rows, second: Rows) -> Paired:
    """Which of two models is right, row by row."""
    return Paired(int((first & ~second).sum()), int((second & ~first).sum()))


def finite(value: float | None) -> float | None:
    """None, too, for what JSON has no number for: of a stage that keeps nothing, the threshold is infinite."""
    return value if value is not None and np.isfinite(value) else None


def times_cheaper(base: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[float, float, float]:
    """How many times cheaper a row of the table is than another: the median of the rounds' own ratios, the least and
    the highest. A model that was timed in one pass alone is compared in that with every round of the other."""
    ours, theirs = (each.get(BY_ROUND, (each["seconds_per_request"],)) for each in (row, base))
    num = max(len(ours), len(theirs))
    ours, theirs = ([*values] * (num if len(values) == 1 else 1) for values in (ours, theirs))
    ratios = [their / max(own, 1e-12) for own, their in zip(ours, theirs, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def result_document(result: Result, host: HostCost) -> dict[str, object]:
    """As report.json and benchmarks/results/distill.json have it; `farthing waterfall` reads it too."""
    low, high = result.quality.interval
    seconds = result.cost.seconds
    document: dict[str, object] = {
        "name": result.name,
        "accuracy": result.quality.accuracy,
        "low": low,
        "high": high,
        "num_rows": result.quality.num_rows,
        "kl": finite(result.quality.kl),
        "seconds_per_request": seconds,
        BY_ROUND: result.cost.rounds or (seconds,),
        "requests_per_s": 1 / seconds if seconds else None,
        "tokens_per_s": result.cost.num_tokens / seconds if seconds and result.cost.num_tokens else None,
        "usd_per_million_requests": str(result.cost.usd_per_million(host)),
        "weight_bytes": result.cost.weight_bytes,
    }
    if result.against_linear is not None:
        against = result.against_linear
        document["against_linear"] = {
            "only_this": against.only_first,
            "only_linear": against.only_second,
            "p": against.p_value,
            "is_better": against.is_first_better,
            "verdict": against.verdict,
        }
    more: Mapping[str, object] = {
        "quality": _words(result),
        "shares": result.shares,
        "thresholds": tuple(map(finite, result.thresholds)),
        "weights": result.weights,
        "note": result.note,
    }
    return document | {name: value for name, value in more.items() if value}


def _words(result: Result) -> str:
    """What the panel of `farthing waterfall` says of it beside the accuracy."""
    parts = [] if result.quality.kl is None else [f"KL {result.quality.kl:.3f}"]
    if result.against_linear is not None:
        against = result.against_linear
        parts.append(f"{against.verdict} than the linear model (p {against.p_value:.1g})")
    if result.shares:
        parts.append("answered by each stage: " + "/".join(f"{share:.1%}" for share in result.shares))
    return "; ".join([*parts, *([result.note] if result.note else [])])

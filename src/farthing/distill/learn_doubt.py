"""Whether a batch of new answers contradicts what older rows say surely: looked at before anything is taught.

A linear model of the older rows (which taught before, or that somebody has checked) is sure of some texts: as sure as
it was of those older held-out rows of which it got at most ERROR wrong. Where it is as sure of new texts, new answers
agree but for some; a batch that was poisoned does not. Answers of one label that were all turned into another are found
label by label. Rows that contradict are set aside also where the batch is believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

from farthing.distill.learn_rows import Answered
from farthing.distill.linear import train_linear
from farthing.report.compare_stats import wilson

__all__ = ["Doubt", "binomial_tail", "doubted"]

Chances = NDArray[np.float32]
ERROR = 0.02  # of older held-out rows, among those that count as sure
MIN_SURE = 20  # rows, or nothing is said
LEVEL = 0.01  # the chance that a harmless batch is refused for a label, at most
MIN_LABEL_ROWS = 5  # older rows with a label, or nobody knows it well enough to doubt an answer of that name


@dataclass(frozen=True)
class Doubt:
    """reason: why the batch is refused; empty where it is not."""

    num_sure: int
    disputed: tuple[int, ...]  # rows of the batch that contradict
    reason: str = ""
    note: str = ""  # what could not be looked at


class _Guess:
    """What older rows say of a text: the likeliest label and its probability."""

    def __init__(self, rows: Sequence[Answered]) -> None:
        self._names = sorted({row.answer for row in rows})
        numbers = {name: number for number, name in enumerate(self._names)}
        labels = np.array([numbers[row.answer] for row in rows], np.int64)
        self._linear = train_linear([row.prompt for row in rows], labels, len(self._names))

    def __call__(self, rows: Sequence[Answered]) -> tuple[list[str], Chances]:
        if not rows:
            return [], np.zeros(0, np.float32)
        chances = self._linear.probabilities([row.prompt for row in rows])
        return [self._names[number] for number in chances.argmax(axis=1)], chances.max(axis=1)


def doubted(older: Sequence[Answered], held_out: Sequence[Answered], batch: Sequence[Answered], most: float) -> Doubt:
    """older: rows to learn from; held_out: others as trustworthy. most: the share of sure rows that may contradict."""
    if len(held_out) < MIN_SURE or len(older) < MIN_SURE or len({row.answer for row in older}) < 2:
        return Doubt(0, (), note="nothing older to compare this batch with: it is believed")
    guess = _Guess(older)
    limit = _sure_limit(guess, held_out)
    if limit is None:
        return Doubt(0, (), note="older rows are never surely predicted, so this batch is believed")
    known = {name for name in {row.answer for row in older} if _count(older, name) >= MIN_LABEL_ROWS}
    labels, chances = guess(batch)
    is_sure = [
        bool(chance >= limit) and row.answer in known for row, chance in zip(batch, chances.tolist(), strict=True)
    ]
    sure = [number for number, is_so in enumerate(is_sure) if is_so]
    disputed = tuple(number for number in sure if labels[number] != batch[number].answer)
    return Doubt(len(sure), disputed, _reason(sure, disputed, labels, batch, most))


def binomial_tail(num: int, total: int, share: float) -> float:
    """The chance of `num` or more of `total`, each with the chance `share`."""
    if num <= 0:
        return 1.0
    return min(1.0, sum(exp(_log_binomial(k, total, share)) for k in range(num, total + 1)))


def _log_binomial(k: int, n: int, p: float) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p)


def _sure_limit(guess: _Guess, rows: Sequence[Answered]) -> float | None:
    """The least probability from which on at most ERROR of the rows are wrong; None: too few rows are."""
    labels, chances = guess(rows)
    is_wrong = np.array([label != row.answer for label, row in zip(labels, rows, strict=True)])
    order = np.argsort(-chances, kind="stable")
    shares = np.cumsum(is_wrong[order]) / np.arange(1, len(rows) + 1)
    good = np.flatnonzero(shares <= ERROR)
    if not len(good) or good[-1] + 1 < MIN_SURE:
        return None
    return float(chances[order[good[-1]]])


def _reason(
    sure: Sequence[int], disputed: Sequence[int], labels: Sequence[str], batch: Sequence[Answered], most: float
) -> str:
    if len(sure) >= MIN_SURE and wilson(len(disputed), len(sure))[0] > most:
        return (
            f"{len(disputed):,} of the {len(sure):,} new answers that older rows say surely contradict them; at most"
            f" {most:.0%} may"
        )
    names = sorted({labels[number] for number in sure})
    for name in names:
        here = [number for number in sure if labels[number] == name]
        against = [number for number in here if number in set(disputed)]
        if binomial_tail(len(against), len(here), most) * len(names) < LEVEL:
            other = max({batch[n].answer for n in against}, key=lambda a: sum(batch[n].answer == a for n in against))
            return (
                f"of {len(here):,} new texts that are surely {name!r} by older rows, {len(against):,} were answered"
                f" otherwise, most as {other!r}"
            )
    return ""


def _count(rows: Sequence[Answered], name: str) -> int:
    return sum(row.answer == name for row in rows)

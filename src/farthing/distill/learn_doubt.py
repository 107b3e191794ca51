"""Whether a batch of new answers contradicts what older rows say surely: looked at before anything is taught.

A linear model of the older rows (which taught before, or that somebody has checked) is sure of some texts: as sure as
it was of those older held-out rows of which it got at most ERROR wrong. Where it is as sure of new texts, new answers
agree but for some; a batch that was poisoned does not. Answers of one label that were all turned into another are found
label by label. Rows that contradict are set aside also where the batch is believed.

Like is compared with like: what goes up is harder than what is kept, so new rows that went up are measured by older
ones that the present version would send up. Where these are too few to say anything, the second look does: what the
linear model gets of older held-out rows may not fall, in all or for one label, when it learns the new rows too.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from farthing.distill.learn_lost import LEVEL, binomial_tail, by_label, lost_labels
from farthing.distill.learn_rows import Answered
from farthing.distill.linear import train_linear
from farthing.report.compare_stats import mcnemar

__all__ = ["Doubt", "doubted"]

Chances = NDArray[np.float32]
ERROR = 0.04  # of older held-out rows, among those that count as sure
MIN_SURE = 20  # rows, or nothing is said
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


def doubted(
    older: Sequence[Answered],
    held_out: Sequence[Answered],
    is_up: Sequence[bool],
    batch: Sequence[Answered],
    since_us: int,
    most: float,
) -> Doubt:
    """older: rows to learn from; held_out: others as trustworthy; is_up: which of these the present version would send
    up. Rows of the batch from before since_us waited for it: those after are looked at alone, too, so that what waited
    hides nothing. most: the share of sure rows that may contradict."""
    if len(held_out) < MIN_SURE or len(older) < MIN_SURE or len({row.answer for row in older}) < 2:
        return Doubt(0, (), note="nothing older to compare this batch with: it is believed")
    guess = _Guess(older)
    known = {name for name, num in Counter(row.answer for row in older).items() if num >= MIN_LABEL_ROWS}
    labels, chances = guess(batch)
    limits = {
        went_up: _sure_limit(guess, [row for row, is_so in zip(held_out, is_up, strict=True) if is_so == went_up])
        for went_up in (True, False)
    }
    sure = [
        number
        for number, row in enumerate(batch)
        if row.answer in known and chances[number] >= limits[row.source != "confirmed"]
    ]
    disputed = {number for number in sure if labels[number] != batch[number].answer}
    praised = _praised(sure, labels, batch, most)
    disputed |= praised
    sure = [number for number in sure if number not in praised]
    latest = [number for number in sure if batch[number].at_us >= since_us]
    reason = _reason(latest, labels, batch, most) or _reason(sure, labels, batch, most)
    left = [row for number, row in enumerate(batch) if number not in praised]
    note = "feedback contradicts older rows: no answer of the small model teaches in this run" if praised else ""
    return Doubt(len(sure), tuple(sorted(disputed)), reason or _harm(guess, older, held_out, left), note)


def _praised(sure: Sequence[int], labels: Sequence[str], batch: Sequence[Answered], most: float) -> set[int]:
    """Rows that are there because somebody praised them, where such praise contradicts older rows. Who praises nonsense
    only has the praise left out: the batch of others is judged by itself."""
    confirmed = {number for number, row in enumerate(batch) if row.source == "confirmed"}
    return confirmed if _reason([number for number in sure if number in confirmed], labels, batch, most) else set()


def _sure_limit(guess: _Guess, rows: Sequence[Answered]) -> float:
    """The least probability from which on at most ERROR of the rows are wrong; infinite where too few rows are."""
    labels, chances = guess(rows)
    is_wrong = np.array([label != row.answer for label, row in zip(labels, rows, strict=True)], np.bool_)
    order = np.argsort(-chances, kind="stable")
    shares = np.cumsum(is_wrong[order]) / np.arange(1, len(rows) + 1)
    good = np.flatnonzero(shares <= ERROR)
    return float(chances[order[good[-1]]]) if len(good) and good[-1] + 1 >= MIN_SURE else inf


def _harm(guess: _Guess, older: Sequence[Answered], held_out: Sequence[Answered], batch: Sequence[Answered]) -> str:
    """What older rows lose when the new ones are learned beside them, with those that never teach among them: a batch
    is told by all of its rows."""
    references = [row.answer for row in held_out]
    labels = by_label(references, guess(held_out)[0], _Guess([*older, *batch])(held_out)[0])
    lost, gained = (sum(counts[at] for counts in labels.values()) for at in (1, 2))
    if mcnemar(lost, gained) < LEVEL:
        return (
            f"a model that learns the new rows too loses {lost:,} of {len(held_out):,} older ones and gains {gained:,}"
        )
    fallen = lost_labels(labels)
    return f"a model that learns the new rows too loses {fallen[0]}" if fallen else ""


def _reason(sure: Sequence[int], labels: Sequence[str], batch: Sequence[Answered], most: float) -> str:
    against = {number for number in sure if labels[number] != batch[number].answer}
    if binomial_tail(len(against), len(sure), most) < LEVEL:
        return (
            f"{len(against):,} of the {len(sure):,} new answers that older rows say surely contradict them; about"
            f" {most:.0%} may"
        )
    names = sorted({labels[number] for number in sure})
    for name in names:
        here = [number for number in sure if labels[number] == name]
        wrong = [number for number in here if number in against]
        if binomial_tail(len(wrong), len(here), most) * len(names) < LEVEL:
            other = Counter(batch[number].answer for number in wrong).most_common(1)[0][0]
            return (
                f"of {len(here):,} new texts that are surely {name!r} by older rows, {len(wrong):,} were answered"
                f" otherwise, most as {other!r}"
            )
    return ""

"""Whether a new version may serve: quality within the bound, at lower cost, on rows that taught neither version.

quality   beside the present version and beside the large model alone, paired row by row: the lower end of the 95 %
          interval is within the bound. On the older rows alone, which a poisoned batch has not touched, the
          difference itself is
labels    no label may lose more than chance takes: of a label's older rows, those that only the present version
          gets right, against how often that happens elsewhere
cost      of held-out requests of the time, paired
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from farthing.distill.learn_lost import LabelCounts, lost_labels
from farthing.report.compare_stats import paired_interval

__all__ = ["Judged", "Lead", "Verdict", "decide", "lead"]

Bools = NDArray[np.bool_]
Picos = NDArray[np.float64]
MIN_OLD = 50  # older rows that judge, to be looked at alone
MIN_REQUESTS = 30
_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Lead:
    """Of quality: after less before, with its 95 % interval."""

    difference: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.difference:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


@dataclass(frozen=True)
class Judged:
    """Two versions, each with its router. The first three are of the rows that judge, the two after of requests,
    the last of the label alone, on all held-out older rows. has_present: False where `before` is the large model."""

    before: Bools  # answered as the large model would
    after: Bools
    is_old: Bools
    cost_before: Picos
    cost_after: Picos
    has_present: bool
    by_label: LabelCounts  # empty where there is no present version


@dataclass(frozen=True)
class Verdict:
    kind: Literal["promoted", "kept", "refused"]
    lead: Lead
    reasons: tuple[str, ...]


def lead(before: Bools, after: Bools) -> Lead:
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    if not len(before):
        return Lead(0.0, -1.0, 1.0)
    low, high = paired_interval(gained, lost, len(before))
    return Lead((gained - lost) / len(before), low, high)


def decide(judged: Judged, bound: float) -> Verdict:
    all_rows = lead(judged.before, judged.after)
    old = lead(judged.before[judged.is_old], judged.after[judged.is_old])
    has_old = int(judged.is_old.sum()) >= MIN_OLD
    harm = [f"it loses {what}" for what in lost_labels(judged.by_label)]
    for found, rows in ((all_rows, "all rows"), *([(old, "older rows")] if has_old else [])):
        if judged.has_present and found.high < 0 and found.difference < -bound:
            harm.append(f"quality on {rows} falls beside the present version: {found}")
    if harm:
        return Verdict("refused", all_rows, tuple(harm))
    missing = [
        f"quality beside {who} is not shown to hold within {100 * bound:g} points: {found}"
        for found, who in _leads(judged, all_rows)
        if found.low < -bound
    ]
    if has_old and old.difference < -bound:
        missing.append(f"quality on older rows alone is not within {100 * bound:g} points: {old}")
    missing += _dearer(judged.cost_before, judged.cost_after)
    if missing:
        return Verdict("kept", all_rows, tuple(missing))
    return Verdict("promoted", all_rows, (f"quality {all_rows} on {len(judged.before):,} rows, at lower cost",))


def _leads(judged: Judged, all_rows: Lead) -> list[tuple[Lead, str]]:
    large = lead(np.ones(len(judged.after), np.bool_), judged.after)
    return [(large, "the large model"), *([(all_rows, "the present version")] if judged.has_present else [])]


def _dearer(before: Picos, after: Picos) -> list[str]:
    """Why it is not shown to be cheaper; empty where it is."""
    num = len(before)
    if num < MIN_REQUESTS:
        return [f"{num} requests say nothing of the cost; {MIN_REQUESTS} are needed"]
    change = after - before
    high = float(change.mean()) + _Z95 * float(change.std(ddof=1)) / sqrt(num)
    if high < 0:
        return []
    return [
        f"it is not shown to be cheaper: ${after.mean() / 1e12:.3g} a request instead of ${before.mean() / 1e12:.3g}"
    ]

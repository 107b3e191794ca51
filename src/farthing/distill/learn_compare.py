"""Two versions on the same rows and requests: what the gate decides by, and what people are told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from farthing.distill.learn_collect import Batch
from farthing.distill.learn_gate import Judged, Verdict
from farthing.distill.learn_judge import Costs, Served, Version, judging, served, teaching_router
from farthing.distill.learn_lost import LabelCounts, by_label
from farthing.distill.learn_rows import Answered
from farthing.distill.promotion import version_name
from farthing.distill.split import held_out
from farthing.report.learn_history import Event, Figures

__all__ = ["MAX_PRICED", "both", "priced", "with_verdict"]

CostsOf = Callable[[float], Costs]
ALIKE = 0.05  # of a model's weights: a label more or fewer
MAX_PRICED = 2000  # requests of the time on which costs are compared, drawn by content


def priced(batch: Batch) -> list[str]:
    """Requests of the time that taught neither the small model nor the router's check, which would look too sure of
    them. Of many a part, drawn by content."""

    def drawn(prompt: str) -> bytes:
        return sha256(prompt.encode("utf-8", "replace")).digest()

    prompts = list(batch.prompts)
    is_unseen = held_out(prompts, batch.held_out) & ~teaching_router(prompts)
    return sorted((prompts[i] for i in np.flatnonzero(is_unseen)), key=drawn)[:MAX_PRICED]


def both(
    present: Version | None,
    new: Version,
    rows: Sequence[Answered],
    older: set[str],
    requests: Sequence[str],
    costs: CostsOf,
) -> tuple[Judged, Figures, Figures]:
    """rows: held-out ones, of which a part judges; older: the texts of those that a new batch has not touched; costs:
    of a request, from the seconds of the small model's answer. present None: the large model answers alone."""
    is_judging = judging([row.prompt for row in rows])
    chosen = [row for row, is_so in zip(rows, is_judging, strict=True) if is_so]
    is_old = np.array([row.prompt in older for row in chosen], np.bool_)
    right, asked = _right(new, chosen), served(new, requests)
    if present is None:
        cost, large = asked.cost(costs(asked.answers.seconds)), costs(0.0).large
        judged = Judged(np.ones(len(chosen), np.bool_), right, is_old, np.full(len(cost), large), cost, False, {})
        return judged, Figures(round(large), 1.0, 1.0), _figures(right, asked, cost)
    was_right, was_asked = _right(present, chosen), served(present, requests)
    was_s, is_s = _seconds((present, was_asked), (new, asked))
    was_cost, cost = was_asked.cost(costs(was_s)), asked.cost(costs(is_s))
    labels = _labels(present, new, [row for row in rows if row.prompt in older])
    judged = Judged(was_right, right, is_old, was_cost, cost, True, labels)
    return judged, _figures(was_right, was_asked, was_cost), _figures(right, asked, cost)


def _right(version: Version, rows: Sequence[Answered]) -> NDArray[np.bool_]:
    return served(version, [row.prompt for row in rows]).right([row.answer for row in rows])


def _figures(right: NDArray[np.bool_], asked: Served, cost: NDArray[np.float64]) -> Figures:
    if not len(right) or not len(cost):
        return Figures(0, 0.0, 1.0)
    return Figures(round(float(cost.mean())), float(right.mean()), float(1 - asked.is_kept.mean()))


def _seconds(present: tuple[Version, Served], new: tuple[Version, Served]) -> tuple[float, float]:
    """Of an answer of each. Models of the same size take as long, and what was measured differs by chance: such a
    difference, the same for every request, would look like a sure one."""
    (old_version, was), (new_version, asked) = present, new
    was_s, is_s = was.answers.seconds, asked.answers.seconds
    size = old_version.student.size
    if abs(new_version.student.size - size) <= ALIKE * size:
        was_s = is_s = (was_s + is_s) / 2
    return was_s, is_s


def _labels(present: Version, new: Version, rows: Sequence[Answered]) -> LabelCounts:
    if not rows:
        return {}
    texts = [row.prompt for row in rows]
    return by_label(
        [row.answer for row in rows], present.student.answer(texts).labels, new.student.answer(texts).labels
    )


def with_verdict(base: Event, verdict: Verdict, before: Figures, after: Figures, num_judged: int) -> Event:
    found = replace(
        base,
        kind=verdict.kind,
        before=before,
        after=after,
        difference=verdict.lead.difference,
        low=verdict.lead.low,
        high=verdict.lead.high,
        num_judged=num_judged,
        reasons=verdict.reasons,
    )
    return replace(found, version=version_name(base.run)) if verdict.kind == "promoted" else found

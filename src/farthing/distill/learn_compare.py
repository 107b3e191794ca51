"""Two versions on the same rows and requests: what the gate decides by, and what people are told."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.distill.learn_collect import Batch
from farthing.distill.learn_gate import Judged, Verdict
from farthing.distill.learn_judge import Costs, Version, judging, served
from farthing.distill.learn_lost import by_label
from farthing.distill.learn_rows import Answered
from farthing.distill.promotion import version_name
from farthing.report.learn_history import Event, Figures

__all__ = ["both", "priced", "with_verdict"]

MAX_PRICED = 2000  # requests of the time on which costs are compared, drawn by content


def priced(batch: Batch) -> list[str]:
    """Requests of the time, a part drawn by content where there are many."""

    def drawn(prompt: str) -> bytes:
        return sha256(prompt.encode("utf-8", "replace")).digest()

    return sorted(batch.prompts, key=drawn)[:MAX_PRICED]


def both(
    present: Version | None,
    new: Version,
    rows: Sequence[Answered],
    older: set[str],
    requests: Sequence[str],
    costs: Costs,
) -> tuple[Judged, Figures, Figures]:
    is_judging = judging([row.prompt for row in rows])
    chosen = [row for row, is_so in zip(rows, is_judging, strict=True) if is_so]
    texts, references = [row.prompt for row in chosen], [row.answer for row in chosen]
    old_rows = [row for row in rows if row.prompt in older]
    after, after_cost = served(new, texts), served(new, requests)
    right = after.right(references)
    if present is None:
        all_right, all_up = np.ones(len(chosen), np.bool_), np.full(len(requests), costs.large)
        judged = Judged(all_right, right, _among(chosen, older), all_up, after_cost.cost(costs), False, {})
        before_figures = Figures(round(costs.large), 1.0, 1.0)
    else:
        before, before_cost = served(present, texts), served(present, requests)
        was_right = before.right(references)
        labels = by_label(
            [row.answer for row in old_rows],
            present.student.answer([row.prompt for row in old_rows]).labels,
            new.student.answer([row.prompt for row in old_rows]).labels,
        )
        judged = Judged(
            was_right, right, _among(chosen, older), before_cost.cost(costs), after_cost.cost(costs), True, labels
        )
        before_figures = _figures(before_cost.cost(costs), was_right, before_cost.is_kept)
    return judged, before_figures, _figures(after_cost.cost(costs), right, after_cost.is_kept)


def _among(rows: Sequence[Answered], older: set[str]) -> NDArray[np.bool_]:
    return np.array([row.prompt in older for row in rows], np.bool_)


def _figures(cost: NDArray[Any], right: NDArray[Any], is_kept: NDArray[Any]) -> Figures:
    return Figures(
        round(float(cost.mean())) if len(cost) else 0,
        float(right.mean()) if len(right) else 0.0,
        float(1 - is_kept.mean()) if len(is_kept) else 1.0,
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

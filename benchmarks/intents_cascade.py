"""Cascades as `farthing distill` measures them, and what escalating a share of the rows gives."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from farthing.distill.cascade import Outcome, Stage, choose_thresholds, serve

__all__ = ["Outcome", "Stage", "choose_thresholds", "curve", "serve"]


def curve(stage: Stage, large: Stage, shares: Sequence[float]) -> list[tuple[float, Outcome, float]]:
    """(share escalated, what happens, accuracy of random escalation at the same dollars) for the least sure rows."""
    order = np.argsort(stage.confidence, kind="stable")
    rows = []
    for share in shares:
        kept = np.ones(len(order), bool)
        kept[order[: round(share * len(order))]] = False
        sorted_out = replace(stage, confidence=kept.astype(np.float64))
        found = serve([sorted_out, large], [0.5])
        # Random routing asks one model only; it has the small call's price to spend on more large ones.
        part = (found.usd.mean() - stage.usd.mean()) / max(large.usd.mean() - stage.usd.mean(), 1e-18)
        part = float(np.clip(part, 0, 1))
        rows.append((share, found, (1 - part) * float(stage.right.mean()) + part * float(large.right.mean())))
    return rows

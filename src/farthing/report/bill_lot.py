"""Beside a router: a lot that spends as much. It would draw between the cheapest and the dearest model that answered.

What a lot would cost is plain arithmetic: each model's mean cost of an answer that was given. What it would be worth is
known only as far as people scored answers (POST /v1/feedback), and those are answers to the prompts that the router
gave to each model: easy ones to the cheap one. So a lot's quality is, if anything, put too high here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from farthing.ledger.feedback import RoutedScore
from farthing.ledger.row import Row
from farthing.report.bill_sums import is_failed

__all__ = ["Lot", "ModelPart", "RouterSums", "lots", "to_document"]

KINDS = ("router", "cascade", "sticky")  # beginnings of a route that a router wrote; a fallback alone writes others
MAX_ROUTERS, MAX_MODELS = 200, 20  # beyond them none are looked at: names are the callers' own, memory is not
MIN_SCORES = 10  # fewer say nothing
Z = 1.96


@dataclass
class RouterSums:
    """Of one name that was asked for."""

    is_router: bool = False
    cost_pico: int = 0  # of every attempt, those that were not given too
    answers: dict[str, list[int]] = field(default_factory=dict)  # by model: given, priced of them, their pico

    def add(self, row: Row) -> None:
        self.is_router = self.is_router or (row.route or "").startswith(KINDS)
        self.cost_pico += row.cost_pico or 0
        if is_failed(row) or row.served_model is None:
            return
        if row.served_model not in self.answers and len(self.answers) >= MAX_MODELS:
            return
        found = self.answers.setdefault(row.served_model, [0, 0, 0])
        found[0] += 1
        if row.cost_pico is not None:
            found[1] += 1
            found[2] += row.cost_pico


@dataclass(frozen=True)
class ModelPart:
    name: str
    num_answers: int
    mean_pico: float | None  # of an answer that was given; None: without a price
    num_scores: int
    score: float | None  # mean, 0 to 1; None: too few
    margin: float | None  # half of its 95 % interval


@dataclass(frozen=True)
class Lot:
    """share: of the dearest model's answers that a lot could afford for what this router spent; router_share: how many
    this router's answers were. Scores are weighted by the models' shares, so that who is judged oftener counts no more.
    """

    router: str
    models: tuple[ModelPart, ...]  # cheapest first
    num_answers: int
    mean_pico: float  # of an answer, with all that was paid for it
    share: float | None
    score: float | None
    lot_score: float | None
    margin: float | None  # half of the 95 % interval of the difference of the two

    @property
    def router_share(self) -> float:
        return self.models[-1].num_answers / self.num_answers


def lots(routers: Mapping[str, RouterSums], scores: Iterable[RoutedScore]) -> list[Lot]:
    """One for each router that gave answers of two models or more, most answers first."""
    judged: dict[tuple[str, str], list[float]] = {}
    for row in scores:
        judged.setdefault((row.asked_model, row.served_model), []).append(row.score)
    found = [_lot(name, sums, judged) for name, sums in routers.items() if sums.is_router and len(sums.answers) > 1]
    return sorted(found, key=lambda lot: (-lot.num_answers, lot.router))


def _lot(name: str, sums: RouterSums, judged: Mapping[tuple[str, str], list[float]]) -> Lot:
    parts = [_part(model, counts, judged.get((name, model), [])) for model, counts in sums.answers.items()]
    parts.sort(key=lambda part: (part.mean_pico is None, part.mean_pico, part.name))
    num = sum(part.num_answers for part in parts)
    mean_pico = sums.cost_pico / num
    share = _share(parts, mean_pico)
    score = lot_score = margin = None
    if share is not None and all(part.score is not None for part in parts):
        mine = [part.num_answers / num for part in parts]
        others = [1 - share, *([0.0] * (len(parts) - 2)), share]
        score = sum(weight * (part.score or 0.0) for weight, part in zip(mine, parts, strict=True))
        lot_score = sum(weight * (part.score or 0.0) for weight, part in zip(others, parts, strict=True))
        margin = sqrt(
            sum(((a - b) * (part.margin or 0.0)) ** 2 for a, b, part in zip(mine, others, parts, strict=True))
        )
    return Lot(name, tuple(parts), num, mean_pico, share, score, lot_score, margin)


def _part(name: str, counts: list[int], scores: list[float]) -> ModelPart:
    num, num_priced, pico = counts
    mean = margin = None
    if len(scores) >= MIN_SCORES:
        mean = sum(scores) / len(scores)
        margin = Z * sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1) / len(scores))
    return ModelPart(name, num, pico / num_priced if num_priced else None, len(scores), mean, margin)


def _share(parts: list[ModelPart], mean_pico: float) -> float | None:
    """None where a price is not known, or both cost the same."""
    low, high = parts[0].mean_pico, parts[-1].mean_pico
    if low is None or high is None or any(part.mean_pico is None for part in parts) or high <= low:
        return None
    return min(1.0, max(0.0, (mean_pico - low) / (high - low)))


def to_document(lot: Lot) -> dict[str, Any]:
    return {
        "router": lot.router,
        "answers": lot.num_answers,
        "mean_cost_pico": round(lot.mean_pico),
        "share_of_dearest": lot.router_share,
        "share_of_dearest_by_lot": lot.share,
        "score": lot.score,
        "score_by_lot": lot.lot_score,
        "score_difference_margin": lot.margin,
        "models": [
            {
                "name": part.name,
                "answers": part.num_answers,
                "mean_cost_pico": None if part.mean_pico is None else round(part.mean_pico),
                "scores": part.num_scores,
                "score": part.score,
                "score_margin": part.margin,
            }
            for part in lot.models
        ],
    }

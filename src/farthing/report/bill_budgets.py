"""Budgets beside the bill: what is used, set aside and left in the window that holds now, whatever period is shown; and
of the period, what hosted calls used beyond what was estimated and reserved for them."""

from collections.abc import Mapping, Sequence
from typing import Any

from farthing.ledger.overshoot import Overshoot
from farthing.ledger.reservation import Room

__all__ = ["budget_documents", "budget_lines"]

NONE = Overshoot(0, 0, 0)


def budget_documents(rooms: Sequence[Room], overshoots: Mapping[str, Overshoot]) -> list[dict[str, Any]]:
    """Amounts in the budget's unit: pico-dollars (usd), tokens or requests. left is negative where it was overshot."""
    return [
        {
            "id": room.budget.id,
            "kind": room.budget.kind,
            "scope": room.budget.scope,
            "subject": room.budget.subject,
            "unit": "pico_usd" if room.budget.unit == "usd" else room.budget.unit,
            "span": room.budget.span,
            "amount": room.budget.amount,
            "used": room.used,
            "reserved": room.reserved,
            "left": room.left,
            "calls_above_estimate": (over := overshoots.get(room.budget.id, NONE)).num_calls,
            "above_estimate": over.amount,
            "most_above_estimate": over.most,
        }
        for room in rooms
    ]


def budget_lines(
    rooms: Sequence[Room], key_names: Mapping[str, str], overshoots: Mapping[str, Overshoot]
) -> list[dict[str, str]]:
    """The same for people."""
    return [
        {
            "budget of": _whom(room, key_names),
            "allowed": f"{room.budget.words(room.budget.amount)} {_per(room.budget.span)}",
            "used": room.budget.words(room.used),
            "reserved": room.budget.words(room.reserved),
            "left": room.budget.words(room.left),
            "above estimate": _above(room, overshoots.get(room.budget.id)),
        }
        for room in rooms
    ]


def _above(room: Room, over: Overshoot | None) -> str:
    if over is None:
        return "–"
    calls = "1 call" if over.num_calls == 1 else f"{over.num_calls:,} calls"
    return f"{room.budget.words(over.amount)} in {calls}"


def _whom(room: Room, key_names: Mapping[str, str]) -> str:
    budget = room.budget
    if budget.scope == "global":
        return "everybody"
    name = key_names.get(budget.subject) if budget.scope == "key" else None
    return f"{budget.scope} {name} ({budget.subject})" if name else f"{budget.scope} {budget.subject}"


def _per(span: str) -> str:
    return "in total" if span == "total" else f"per {span}"

"""Events of reservations, and the counters that are their sums: several budgets in one statement each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from farthing.ledger.database import Database
from farthing.ledger.ids import new_id, now_us

__all__ = ["NO_BUDGET", "Event", "add_to_counters", "write_events"]

NO_BUDGET = ""  # budget_id of a hosted call that no budget pays for: of amount 0, and in no counter

EventKind = Literal["reserve", "extend", "settle", "release"]


@dataclass(frozen=True, slots=True)
class Event:
    """amount: what is reserved (more), or what is charged at last, in the budget's unit."""

    reservation_id: str
    budget_id: str
    window_us: int
    event: EventKind
    amount: int
    instance_id: str
    is_local: bool
    attempt: str | None = None  # a row as JSON: what is known should this process be killed


def write_events(database: Database, events: Sequence[Event]) -> None:
    at_us = now_us()
    database.execute(
        "INSERT INTO reservations"
        " (id, reservation_id, budget_id, window_us, event, amount, at_us, instance_id, is_local, attempt) VALUES "
        + ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"] * len(events)),
        [
            value
            for event in events
            for value in (
                new_id(at_us),
                event.reservation_id,
                event.budget_id,
                event.window_us,
                event.event,
                event.amount,
                at_us,
                event.instance_id,
                int(event.is_local),
                event.attempt,
            )
        ],
    )


def add_to_counters(database: Database, changes: Sequence[tuple[str, int, int, int]]) -> None:
    """changes: (budget_id, window_us, used, reserved), of different budgets."""
    changes = [change for change in changes if change[0] != NO_BUDGET]
    if not changes:
        return
    database.execute(
        "INSERT INTO counters (budget_id, window_us, used, reserved) VALUES "
        + ", ".join(["(?, ?, ?, ?)"] * len(changes))
        + " ON CONFLICT (budget_id, window_us) DO UPDATE SET"
        " used = counters.used + excluded.used, reserved = counters.reserved + excluded.reserved",
        [value for change in changes for value in change],
    )

"""Hosted calls that used more than was reserved for them: their estimate's error, call by call.

A reservation has the id of its row, so each can be looked up: what it reserved and what it was charged are its events.
"""

from dataclasses import dataclass

from farthing.ledger.database import Database

__all__ = ["Overshoot", "overshoots"]

# Ids begin with their time. A call whose reservation is older than the span is none of it.
_SQL = """SELECT budget_id, COUNT(*), SUM(charged - held), MAX(charged - held) FROM (
    SELECT budget_id, SUM(CASE WHEN event IN ('settle', 'release') THEN amount ELSE 0 END) AS charged,
        SUM(CASE WHEN event = 'reserve' THEN amount ELSE 0 END) AS held,
        SUM(CASE WHEN event = 'reserve' THEN 1 ELSE 0 END) AS num_begun
    FROM reservations WHERE id >= ? AND id < ? AND is_local = 0 AND budget_id <> ''
    GROUP BY reservation_id, budget_id) calls
    WHERE num_begun > 0 AND charged > held GROUP BY budget_id"""


@dataclass(frozen=True, slots=True)
class Overshoot:
    """Amounts in the budget's unit, above what was reserved."""

    num_calls: int
    amount: int
    most: int  # of one call


def overshoots(database: Database, since_us: int, until_us: int) -> dict[str, Overshoot]:
    """By budget id, of calls that began and ended in that span; budgets without any are not there."""
    found = database.execute(_SQL, (_first_id(since_us), _first_id(until_us))).fetchall()
    return {budget_id: Overshoot(int(num), int(amount), int(most)) for budget_id, num, amount, most in found}


def _first_id(at_us: int) -> str:
    return f"{min(max(0, at_us), 2**56 - 1):014x}"

"""The books against themselves: counters and open reservations must be the sums of the append-only events."""

from collections.abc import Mapping
from typing import Any

from farthing.ledger.database import Database
from farthing.ledger.events import NO_BUDGET

__all__ = ["check", "rebuild"]

_USED = """SELECT budget_id, window_us, SUM(CASE WHEN event IN ('settle', 'release') THEN amount ELSE 0 END)
    FROM reservations WHERE budget_id <> '' GROUP BY budget_id, window_us"""
_OPEN = """SELECT r.reservation_id, r.budget_id, r.window_us, SUM(r.amount), MIN(r.instance_id),
    MAX(r.is_local) FROM reservations r
    WHERE r.event IN ('reserve', 'extend') AND NOT EXISTS (SELECT 1 FROM reservations c
        WHERE c.reservation_id = r.reservation_id AND c.budget_id = r.budget_id AND c.event IN ('settle', 'release'))
    GROUP BY r.reservation_id, r.budget_id, r.window_us"""


def check(database: Database) -> list[str]:
    """What differs, one line each; empty where all is well. In a transaction of its own, as others write meanwhile."""
    database.begin()
    try:
        open_now, counters = _derived(database)
        kept_open = {
            (reservation, budget): (window_us, int(reserved))
            for reservation, budget, window_us, reserved in database.execute(
                "SELECT reservation_id, budget_id, window_us, reserved FROM open_reservations"
            ).fetchall()
        }
        kept = {
            (budget, window_us): (int(used), int(reserved))
            for budget, window_us, used, reserved in database.execute(
                "SELECT budget_id, window_us, used, reserved FROM counters"
            ).fetchall()
        }
    finally:
        database.rollback()
    expected_open = {key: value[:2] for key, value in open_now.items()}
    return _differences("reservation", kept_open, expected_open) + _differences("counter", kept, counters)


def _differences(what: str, kept: Mapping[Any, tuple[int, int]], expected: Mapping[Any, tuple[int, int]]) -> list[str]:
    return [
        f"{what} {name}: kept {kept.get(name)}, the events say {expected.get(name)}"
        for name in sorted(kept.keys() | expected.keys())
        if kept.get(name) != expected.get(name)
    ]


def rebuild(database: Database) -> None:
    """Write counters and open reservations anew, from the events. In the caller's transaction."""
    open_now, counters = _derived(database)
    database.execute("DELETE FROM counters")
    database.execute("DELETE FROM open_reservations")
    for (budget_id, window_us), (used, reserved) in counters.items():
        database.execute("INSERT INTO counters VALUES (?, ?, ?, ?)", (budget_id, window_us, used, reserved))
    for (reservation_id, budget_id), kept in open_now.items():
        database.execute("INSERT INTO open_reservations VALUES (?, ?, ?, ?, ?, ?)", (reservation_id, budget_id, *kept))


def _derived(
    database: Database,
) -> tuple[dict[tuple[str, str], tuple[int, int, str, int]], dict[tuple[str, int], tuple[int, int]]]:
    """Open: {(reservation, budget): (window, reserved, instance, is_local)}; {(budget, window): (used, reserved)}."""
    open_now = {
        (str(reservation), str(budget)): (int(window_us), int(amount), str(instance), int(is_local))
        for reservation, budget, window_us, amount, instance, is_local in database.execute(_OPEN).fetchall()
    }
    reserved: dict[tuple[str, int], int] = {}
    for (_, budget), (window_us, amount, _, _) in open_now.items():
        if budget == NO_BUDGET:
            continue
        reserved[budget, window_us] = reserved.get((budget, window_us), 0) + amount
    counters = {
        (str(budget), int(window_us)): (int(used), reserved.get((budget, window_us), 0))
        for budget, window_us, used in database.execute(_USED).fetchall()
    }
    return open_now, counters

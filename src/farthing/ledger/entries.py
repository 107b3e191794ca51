"""Writes entries: the row into attempts, and what it settles. A repetition changes nothing, so a commit of which nobody
knows whether it happened may be repeated."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from farthing.ledger.database import Database
from farthing.ledger.events import Event, add_to_counters, write_events
from farthing.ledger.records import COLUMNS, Entry, Settlement, row_values
from farthing.ledger.row import Row

__all__ = ["insert_row", "settle", "write_entry"]

_INSERT = (
    f"INSERT INTO attempts ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
    " RETURNING id"
)


def insert_row(database: Database, row: Row) -> bool:
    """False where a row with this id is there already."""
    return len(database.execute(_INSERT, row_values(row)).fetchall()) == 1


def write_entry(database: Database, entry: Entry) -> None:
    """In the caller's transaction."""
    is_new = entry.row is None or _insert(database, entry.row)
    if is_new and entry.settlement is not None:
        settle(database, entry.settlement)


def _insert(database: Database, row: Row) -> bool:
    if insert_row(database, row):
        return True
    found = database.execute("SELECT status FROM attempts WHERE id = ?", (row.id,)).fetchone()
    if found[0] != "killed" or row.status == "killed":
        return False
    # Somebody took us for dead and wrote so. What really happened gets a row of its own, under a name that a repetition
    # finds again.
    return insert_row(database, replace(row, id=row.id + "-late"))


def settle(database: Database, settlement: Settlement) -> None:
    """Close the reservation: what it held is free, what it used is charged.

    One that was closed by others, who took us for dead, gets the difference between what they charged and the truth.
    """
    charges, name = dict(settlement.charges), settlement.reservation_id
    held = database.execute(
        "DELETE FROM open_reservations WHERE reservation_id = ?"
        " RETURNING budget_id, window_us, instance_id, is_local, reserved",
        (name,),
    ).fetchall()
    if held:
        amounts = [charges.get(budget_id, reserved) for budget_id, _, _, _, reserved in held]
        _close(database, settlement, held, amounts)
        return
    closed = database.execute(
        "SELECT budget_id, window_us, MIN(instance_id), MAX(is_local), SUM(amount) FROM reservations"
        " WHERE reservation_id = ? AND event IN ('settle', 'release') GROUP BY budget_id, window_us",
        (name,),
    ).fetchall()
    wrong = [found for found in closed if charges.get(found[0], int(found[4])) != int(found[4])]
    if wrong:
        _close(database, settlement, [(*found[:4], 0) for found in wrong], [charges[f[0]] - int(f[4]) for f in wrong])


def _close(database: Database, settlement: Settlement, held: Sequence[Any], amounts: Sequence[int]) -> None:
    """held: (budget_id, window_us, instance_id, is_local, reserved), each charged the amount of the same place."""
    pairs = list(zip(held, amounts, strict=True))
    write_events(
        database,
        [
            Event(
                settlement.reservation_id, budget_id, window_us, settlement.event, amount, instance_id, bool(is_local)
            )
            for (budget_id, window_us, instance_id, is_local, _), amount in pairs
        ],
    )
    add_to_counters(database, [(found[0], found[1], amount, -found[4]) for found, amount in pairs])

"""Writes entries: the row into attempts, and what it settles. A repetition changes nothing, so a commit of which nobody
knows whether it happened may be repeated."""

from dataclasses import replace

from farthing.ledger.database import Database
from farthing.ledger.ids import new_id, now_us
from farthing.ledger.records import COLUMNS, Entry, Settlement, row_values
from farthing.ledger.reservation import add_to_counter
from farthing.ledger.row import Row

__all__ = ["insert_row", "settle", "write_entry"]

_INSERT = (
    f"INSERT INTO attempts ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)


def insert_row(database: Database, row: Row) -> bool:
    """False where a row with this id is there already."""
    return database.execute(_INSERT, row_values(row)).rowcount == 1


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
    charges = dict(settlement.charges)
    held = database.execute(
        "SELECT budget_id, window_us, reserved FROM open_reservations WHERE reservation_id = ? ORDER BY budget_id",
        (settlement.reservation_id,),
    ).fetchall()
    for budget_id, window_us, reserved in held:
        amount = charges.get(budget_id, reserved)
        _close(database, settlement, budget_id, amount)
        add_to_counter(database, budget_id, window_us, amount, -reserved)
    if held:
        database.execute("DELETE FROM open_reservations WHERE reservation_id = ?", (settlement.reservation_id,))
        return
    closed = database.execute(
        "SELECT budget_id, window_us, SUM(amount) FROM reservations WHERE reservation_id = ?"
        " AND event IN ('settle', 'release') GROUP BY budget_id, window_us ORDER BY budget_id",
        (settlement.reservation_id,),
    ).fetchall()
    for budget_id, window_us, charged in closed:
        difference = charges.get(budget_id, int(charged)) - int(charged)
        if difference:
            _close(database, settlement, budget_id, difference)
            add_to_counter(database, budget_id, window_us, difference, 0)


def _close(database: Database, settlement: Settlement, budget_id: str, amount: int) -> None:
    database.execute(
        "INSERT INTO reservations"
        " (id, reservation_id, budget_id, window_us, event, amount, at_us, instance_id, is_local)"
        " SELECT ?, reservation_id, budget_id, window_us, ?, ?, ?, instance_id, is_local FROM reservations"
        " WHERE reservation_id = ? AND budget_id = ? AND event = 'reserve'",
        (new_id(), settlement.event, amount, now_us(), settlement.reservation_id, budget_id),
    )

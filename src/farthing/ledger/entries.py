"""Writes entries: the row into attempts, and what it settles."""

from dataclasses import replace

from farthing.ledger.database import Database
from farthing.ledger.records import COLUMNS, Entry, row_values
from farthing.ledger.row import Row

__all__ = ["insert_row", "write_entry"]

_INSERT = (
    f"INSERT INTO attempts ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)


def insert_row(database: Database, row: Row) -> bool:
    """False where a row with this id is there already."""
    return database.execute(_INSERT, row_values(row)).rowcount == 1


def write_entry(database: Database, entry: Entry) -> None:
    """In the caller's transaction. A repetition changes nothing, so a commit of which nobody knows may be repeated."""
    row = entry.row
    if row is None or insert_row(database, row):
        return
    found = database.execute("SELECT status FROM attempts WHERE id = ?", (row.id,)).fetchone()
    if found[0] == "killed" and row.status != "killed":
        # Somebody took us for dead and wrote so. What really happened gets a row of its own, under a name that a
        # repetition finds again.
        insert_row(database, replace(row, id=row.id + "-late"))

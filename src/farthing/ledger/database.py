"""The one small door to a database: statements with ? for their values, one connection, transactions by hand.

Both backends understand the SQL in this package; what they do not share (triggers, locks, clocks) is a method here.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from farthing.ledger.config import LedgerConfig, public_url
from farthing.ledger.errors import LedgerError

__all__ = ["Cursor", "Database", "connect"]


class Cursor(Protocol):
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Database(Protocol):
    """One connection, used by one thread at a time. Its errors are the driver's own; `is_away` tells them apart."""

    table_suffix: str  # after CREATE TABLE (…): how a table is laid out by its primary key

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor:
        """Within a transaction an error may show only when a result is fetched, or at the commit."""
        ...

    def begin(self) -> None:
        """Begin a transaction that no other process's write transaction overlaps, so that what it reads of the
        counters holds until it commits."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...

    def forbid_changes(self, table: str) -> None:
        """Make the database itself refuse UPDATE and DELETE on a table."""
        ...

    def has_table(self, table: str) -> bool: ...
    def now_us(self) -> int:
        """The database's clock, which all processes share. In a transaction."""
        ...

    def tidy(self) -> None:
        """What is to be done now and then, beside the writer (SQLite: copy the WAL into the database)."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Whether it is the database that is not usable now (gone, locked, full), and not our statement."""
        ...

    def close(self) -> None: ...


def connect(config: LedgerConfig) -> Database:
    """A connection to the ledger. LedgerError where the driver is missing; else the driver's error."""
    path = config.sqlite_path
    if path is not None:
        from farthing.ledger.sqlite import SqliteDatabase

        return SqliteDatabase(path, config)
    try:
        from farthing.ledger.postgres import PostgresDatabase
    except ImportError:
        raise LedgerError(
            f"the ledger {public_url(config.url)} needs psycopg: pip install 'farthing[postgres]'"
        ) from None
    return PostgresDatabase(config)

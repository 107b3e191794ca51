"""SQLite: one file in WAL mode. A commit survives a killed process; with synchronous FULL also a power cut."""

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from farthing.ledger.config import LedgerConfig

__all__ = ["SqliteDatabase"]

# A commit that finds the WAL this long copies it into the database itself, which takes some milliseconds; `tidy` does
# so before, on another connection.
CHECKPOINT_PAGES = 16_000
_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CORRUPT,
}


def _make(path: Path) -> None:
    """Who used what is nobody else's business: only the owner may read the file.

    A file that is there must not be opened and closed here. Closing any descriptor of a file drops all POSIX locks
    that this process has on it, those of its other connections too. The next process to leave the ledger would then
    think itself the last one and delete the WAL, into which we went on writing: every later row would be lost.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None


class SqliteDatabase:
    """See database.Database. Made by the thread that opens it, used by the one that writes."""

    table_suffix = " WITHOUT ROWID"

    def __init__(self, path: Path, config: LedgerConfig) -> None:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if str(path) != ":memory:":
            _make(path)
        self._connection = sqlite3.connect(
            path, timeout=config.lock_timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            self._set_up(config)
        except BaseException:
            self._connection.close()
            raise

    def _set_up(self, config: LedgerConfig) -> None:
        # Switching to WAL does not wait for locks as other statements do, so two processes that make one file race.
        deadline = time.monotonic() + config.lock_timeout_s
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        self._connection.execute(f"PRAGMA synchronous = {config.synchronous}")
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")

    def execute(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def forbid_changes(self, table: str) -> None:
        for what in ("UPDATE", "DELETE"):
            self._connection.execute(
                f"CREATE TRIGGER {table}_no_{what.lower()} BEFORE {what} ON {table}"
                f" BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )

    def has_table(self, table: str) -> bool:
        found = self.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,))
        return found.fetchone() is not None

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def tidy(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def is_away(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _AWAY

    def close(self) -> None:
        self._connection.close()

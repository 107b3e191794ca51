"""PostgreSQL through psycopg 3, with the same statements and the same guarantees as SQLite."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from typing import Any

import psycopg

from farthing.ledger.config import LedgerConfig

__all__ = ["PostgresDatabase"]

# Writers take one lock for their (short, grouped) transactions, as SQLite's do. Rows of counters are then never locked
# in two orders, so there are no deadlocks and nothing has to be tried twice. The number is this ledger's name for it.
LOCK_NUMBER = 0x6661727468696E67


class PostgresDatabase:
    """See database.Database."""

    table_suffix = ""

    def __init__(self, config: LedgerConfig) -> None:
        lock_ms = max(1, round(config.lock_timeout_s * 1000))
        self._connection = psycopg.connect(
            config.url,
            autocommit=True,
            connect_timeout=max(2, round(config.stall_timeout_s)),
            application_name="farthing",
            # A server that vanished without a word is noticed, and a transaction of ours that hangs ends.
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=max(1000, round(config.stall_timeout_s * 1000)),
        )
        # SET, not options: those may stand in the URL, and would be lost.
        for name, value in (
            ("lock_timeout", f"{lock_ms}ms"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("client_min_messages", "warning"),
        ):
            self._connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        self._connection.prepare_threshold = 2
        self._pipeline = ExitStack()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        return self._connection.execute(_translated(sql), values or None)

    def begin(self) -> None:
        # In a pipeline statements are sent without waiting for the one before; only a result that is looked at waits.
        self._pipeline = ExitStack()
        self._pipeline.enter_context(self._connection.pipeline())
        self._connection.execute("BEGIN")
        self._connection.execute(f"SELECT pg_advisory_xact_lock({LOCK_NUMBER})")

    def commit(self) -> None:
        self._connection.execute("COMMIT")
        self._pipeline.close()  # waits; raises what went wrong on the way

    def rollback(self) -> None:
        with suppress(psycopg.Error):  # what the statements still on their way would have said
            self._pipeline.close()
        self._connection.execute("ROLLBACK")

    def forbid_changes(self, table: str) -> None:
        self._connection.execute(
            f"""CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION '{table} is append-only'; END $$"""
        )
        self._connection.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()"
        )

    def has_table(self, table: str) -> bool:
        # From the catalogue, not by to_regclass: that may remember that there was none before we waited for the lock.
        found = self.execute("SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = ?", (table,))
        return found.fetchone() is not None

    def now_us(self) -> int:
        found = self._connection.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetchone()
        assert found is not None
        return int(found[0])

    def tidy(self) -> None:
        pass  # autovacuum does it

    def is_away(self, error: Exception) -> bool:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or self._connection.closed

    def close(self) -> None:
        self._connection.close()


@lru_cache(maxsize=256)
def _translated(sql: str) -> Any:
    """psycopg writes %s where SQLite writes ?; our statements contain neither sign otherwise."""
    return sql.replace("?", "%s")

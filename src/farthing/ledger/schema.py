"""The tables, as a list of migrations: number n takes a ledger of version n to n + 1, in one transaction.

A migration that was released is never edited; a change is a new one at the end. Statements are understood by SQLite and
PostgreSQL alike: BIGINT is a plain integer in SQLite.
"""

from collections.abc import Callable

from farthing.ledger.database import Database
from farthing.ledger.errors import LedgerError

__all__ = ["MIGRATIONS", "migrate", "version"]


def _attempts_and_keys(database: Database) -> None:
    database.execute(
        """CREATE TABLE attempts (
        id TEXT PRIMARY KEY, request_id TEXT NOT NULL, attempt BIGINT NOT NULL, started_us BIGINT NOT NULL,
        key_id TEXT, project TEXT, tags TEXT NOT NULL, endpoint TEXT NOT NULL, asked_model TEXT NOT NULL,
        upstream TEXT NOT NULL, provider TEXT NOT NULL, served_model TEXT NOT NULL, is_stream BIGINT NOT NULL,
        status TEXT NOT NULL, error TEXT, finish_reason TEXT, usage_source TEXT NOT NULL,
        input_tokens BIGINT, cache_read_tokens BIGINT, cache_write_tokens BIGINT, cache_write_1h_tokens BIGINT,
        output_tokens BIGINT, reasoning_tokens BIGINT, compute_us BIGINT NOT NULL,
        price_status TEXT NOT NULL, price_version TEXT NOT NULL,
        input_pico BIGINT, cache_read_pico BIGINT, cache_write_pico BIGINT, output_pico BIGINT, request_pico BIGINT,
        cost_pico BIGINT, baseline_model TEXT, baseline_pico BIGINT,
        queue_us BIGINT NOT NULL, first_token_us BIGINT, total_us BIGINT NOT NULL, cache TEXT, route TEXT
        )"""
        + database.table_suffix
    )
    database.execute("CREATE INDEX attempts_by_time ON attempts (started_us, id)")
    database.forbid_changes("attempts")
    # What may change lies here: a key is revoked, never deleted, since rows name it.
    database.execute(
        """CREATE TABLE keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, project TEXT, models TEXT NOT NULL,
        created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT)"""
    )


def _budgets(database: Database) -> None:
    database.execute(
        """CREATE TABLE budgets (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, scope TEXT NOT NULL, subject TEXT NOT NULL, unit TEXT NOT NULL,
        span TEXT NOT NULL, amount BIGINT NOT NULL, created_us BIGINT NOT NULL, removed_us BIGINT)"""
    )
    # One row per event and budget; `attempt` (a row as JSON, in reserve events) is what is known should we be killed.
    database.execute(
        """CREATE TABLE reservations (
        id TEXT PRIMARY KEY, reservation_id TEXT NOT NULL, budget_id TEXT NOT NULL, window_us BIGINT NOT NULL,
        event TEXT NOT NULL, amount BIGINT NOT NULL, at_us BIGINT NOT NULL, instance_id TEXT NOT NULL,
        is_local BIGINT NOT NULL, attempt TEXT)"""
        + database.table_suffix
    )
    database.execute("CREATE INDEX reservations_by_reservation ON reservations (reservation_id)")
    database.forbid_changes("reservations")
    # Derived from reservations, in the transactions that write them: `check` compares.
    database.execute(
        """CREATE TABLE counters (
        budget_id TEXT NOT NULL, window_us BIGINT NOT NULL, used BIGINT NOT NULL, reserved BIGINT NOT NULL,
        PRIMARY KEY (budget_id, window_us))"""
    )
    # Reservations that are open, derived too: who must settle them, and what they hold.
    database.execute(
        """CREATE TABLE open_reservations (
        reservation_id TEXT NOT NULL, budget_id TEXT NOT NULL, window_us BIGINT NOT NULL, reserved BIGINT NOT NULL,
        instance_id TEXT NOT NULL, is_local BIGINT NOT NULL, PRIMARY KEY (reservation_id, budget_id))"""
    )
    database.execute(
        """CREATE TABLE instances (
        id TEXT PRIMARY KEY, place TEXT NOT NULL, pid BIGINT NOT NULL, started_ticks TEXT NOT NULL,
        beat_us BIGINT NOT NULL)"""
    )
    # Raised with every change of keys and budgets, so that running servers notice with one small read.
    database.execute("CREATE TABLE directory (version BIGINT NOT NULL)")
    database.execute("INSERT INTO directory VALUES (1)")


def _by_request(database: Database) -> None:
    database.execute("CREATE INDEX attempts_by_request ON attempts (request_id)")


def _feedback_and_traffic(database: Database) -> None:
    database.execute(
        """CREATE TABLE feedback (
        id TEXT PRIMARY KEY, request_id TEXT NOT NULL, at_us BIGINT NOT NULL, key_id TEXT, served_model TEXT NOT NULL,
        score DOUBLE PRECISION, preferred TEXT)"""
        + database.table_suffix
    )
    database.execute("CREATE INDEX feedback_by_request ON feedback (request_id)")
    database.forbid_changes("feedback")
    # Empty unless [server] says that prompts are stored. It may be deleted from, since people must be able to.
    database.execute(
        """CREATE TABLE traffic (
        request_id TEXT PRIMARY KEY, at_us BIGINT NOT NULL, prompt TEXT NOT NULL, served_model TEXT NOT NULL,
        answer TEXT NOT NULL)"""
        + database.table_suffix
    )


MIGRATIONS: tuple[Callable[[Database], None], ...] = (_attempts_and_keys, _budgets, _by_request, _feedback_and_traffic)


def version(database: Database) -> int:
    """How many migrations this ledger has had; 0 for an empty database."""
    if not database.has_table("farthing_schema"):
        return 0
    return int(database.execute("SELECT version FROM farthing_schema").fetchone()[0])


def migrate(database: Database, migrations: tuple[Callable[[Database], None], ...] = MIGRATIONS) -> None:
    """Bring a ledger to the newest version. Processes that do so at once wait for each other (begin is exclusive).

    Raises LedgerError for a ledger that is newer than this program.
    """
    for _ in range(len(migrations) + 1):
        found = version(database)
        if found > len(migrations):
            raise LedgerError(
                f"the ledger has schema version {found}, this farthing knows up to {len(migrations)}; upgrade farthing"
            )
        if found == len(migrations):
            return
        database.begin()
        try:
            if version(database) == found:  # nobody was quicker
                migrations[found](database)
                if found == 0:
                    database.execute("CREATE TABLE farthing_schema (version BIGINT NOT NULL)")
                    database.execute("INSERT INTO farthing_schema VALUES (1)")
                else:
                    database.execute("UPDATE farthing_schema SET version = ?", (found + 1,))
            database.commit()
        except BaseException:
            database.rollback()
            raise

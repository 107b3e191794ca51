"""Keys and budgets as the database has them. Every change raises the directory's version: running servers notice."""

from farthing.ledger.budget import Budget, BudgetIndex, Kind, Scope, Span, Unit
from farthing.ledger.database import Database
from farthing.ledger.errors import LedgerError
from farthing.ledger.ids import new_id, now_us

__all__ = ["add_budget", "directory_version", "list_budgets", "load_index", "remove_budget", "revoke_key", "touch"]

_COLUMNS = "id, kind, scope, subject, unit, span, amount, created_us"


def directory_version(database: Database) -> int:
    return int(database.execute("SELECT version FROM directory").fetchone()[0])


def touch(database: Database) -> None:
    database.execute("UPDATE directory SET version = version + 1")


def load_index(database: Database) -> BudgetIndex:
    return BudgetIndex(list_budgets(database), directory_version(database))


def list_budgets(database: Database) -> list[Budget]:
    """Those that hold now."""
    sql = f"SELECT {_COLUMNS} FROM budgets WHERE removed_us IS NULL ORDER BY created_us, id"
    return [Budget(*found) for found in database.execute(sql).fetchall()]


def add_budget(
    database: Database, kind: Kind, scope: Scope, subject: str, unit: Unit, span: Span, amount: int
) -> Budget:
    """In the caller's transaction."""
    at_us = now_us()
    budget = Budget("bud-" + new_id(at_us)[6:20], kind, scope, subject, unit, span, amount, at_us)
    values = (budget.id, kind, scope, subject, unit, span, amount, at_us)
    database.execute(f"INSERT INTO budgets ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    touch(database)
    return budget


def remove_budget(database: Database, budget_id: str) -> None:
    """It holds no longer; what it counted stays. Raises LedgerError where there is none."""
    sql = "UPDATE budgets SET removed_us = ? WHERE id = ? AND removed_us IS NULL RETURNING id"
    if not database.execute(sql, (now_us(), budget_id)).fetchall():
        raise LedgerError(f"there is no budget {budget_id!r}; see: farthing keys budget list")
    touch(database)


def revoke_key(database: Database, key_id: str) -> None:
    """For good. Raises LedgerError where there is no such key; a second time changes nothing."""
    sql = "UPDATE keys SET revoked_us = COALESCE(revoked_us, ?) WHERE id = ? RETURNING id"
    if not database.execute(sql, (now_us(), key_id)).fetchall():
        raise LedgerError(f"there is no key {key_id!r}; see: farthing keys list")
    touch(database)

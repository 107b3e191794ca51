"""Books for a test, closed at its end, and a look at what they hold."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from farthing.ledger import Books, LedgerConfig, Row, open_reader
from farthing.ledger.budget import Budget, Scope, parse_amount
from farthing.ledger.check import check
from farthing.ledger.directory import add_budget
from farthing.ledger.opening import open_database, transaction
from tests.ledger.leaf import pricer


@asynccontextmanager
async def books_of(config: LedgerConfig, **given: Any) -> AsyncIterator[Books]:
    books = await Books.open(config, given.get("pricer") or pricer())
    try:
        yield books
    finally:
        await books.aclose()


def rows_of(config: LedgerConfig) -> list[Row]:
    with open_reader(config.url) as reader:
        return list(reader.rows(0, 2**62))


def budget_of(
    config: LedgerConfig, amount: str, scope: Scope = "global", subject: str = "", kind: Any = "budget"
) -> Budget:
    database = open_database(config)
    try:
        with transaction(database):
            return add_budget(database, kind, scope, subject, *parse_amount(amount))
    finally:
        database.close()


def used_of(config: LedgerConfig) -> list[tuple[int, int]]:
    """(used, reserved) of every budget; the counters are checked on the way."""
    with open_reader(config.url) as reader:
        return [(room.used, room.reserved) for room in reader.budgets()]


def problems_of(config: LedgerConfig) -> list[str]:
    database = open_database(config)
    try:
        return check(database)
    finally:
        database.close()


def query(config: LedgerConfig, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    database = open_database(config)
    try:
        return database.execute(sql, values).fetchall()
    finally:
        database.close()

"""Every test of the books runs on SQLite, and on a real PostgreSQL where Debian's binaries are."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from farthing.ledger import LedgerConfig
from tests.ledger.postgres_server import PostgresServer, find_binaries

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: apt install postgresql")
    server = PostgresServer(binaries)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerConfig:
    """A new, empty ledger."""
    spool = str(tmp_path / "spool")
    if request.param == "sqlite":
        return LedgerConfig(url=f"sqlite:///{tmp_path / 'ledger.db'}", spool_folder=spool)
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"ledger_{next(_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[arg-type]
    return LedgerConfig(url=f"{server.url}&options=-csearch_path%3D{name}", spool_folder=spool)

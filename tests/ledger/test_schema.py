"""Migrations from every older schema, by several processes at once; and tables that refuse to forget."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farthing.ledger import Books, LedgerConfig, LedgerError, open_reader
from farthing.ledger.database import Database, connect
from farthing.ledger.entries import insert_row
from farthing.ledger.opening import open_database, transaction
from farthing.ledger.records import COLUMNS
from farthing.ledger.schema import MIGRATIONS, migrate, version
from tests.ledger.leaf import a_row, pricer
from tests.ledger.open_books import books_of, budget_of, problems_of, query, rows_of, used_of

SCRIPT = """
import sys
from farthing.ledger.config import LedgerConfig
from farthing.ledger.opening import open_database
from farthing.ledger.schema import version
print(version(open_database(LedgerConfig(url=sys.argv[1], lock_timeout_s=10))))
"""


@pytest.mark.parametrize("old", range(len(MIGRATIONS) + 1))
def test_from_every_older_schema(config: LedgerConfig, old: int) -> None:
    database = connect(config)
    migrate(database, MIGRATIONS[:old])
    assert version(database) == old
    row = a_row(tags=("a",), cost_pico=5)
    if old:
        insert_row(database, row)
    database.close()
    budget_of(config, "1000tokens/day")

    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(a_row())

    asyncio.run(tour())
    found = rows_of(config)
    assert len(found) == 1 + bool(old)
    if old:
        assert row in found
    assert used_of(config) == [(0, 0)]
    assert query(config, "SELECT version FROM farthing_schema") == [(len(MIGRATIONS),)]


def test_a_migration_that_fails_changes_nothing(config: LedgerConfig) -> None:
    def bad(database: Database) -> None:
        database.execute("CREATE TABLE half (a BIGINT)")
        raise ZeroDivisionError

    database = open_database(config)
    with pytest.raises(ZeroDivisionError):
        migrate(database, (*MIGRATIONS, bad))
    assert version(database) == len(MIGRATIONS)
    assert not database.has_table("half")
    database.close()


def test_a_newer_ledger_is_refused(config: LedgerConfig) -> None:
    database = open_database(config)
    migrate(database, (*MIGRATIONS, lambda database: database.execute("CREATE TABLE later (a BIGINT)")))  # type: ignore[arg-type, return-value]
    database.close()
    for open_it in (lambda: asyncio.run(Books.open(config, pricer())), lambda: open_reader(config.url)):
        with pytest.raises(LedgerError, match="upgrade farthing"):
            open_it()  # type: ignore[no-untyped-call]


def test_processes_that_open_a_new_ledger_at_once(config: LedgerConfig) -> None:
    command = [sys.executable, "-c", SCRIPT, config.url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(5)]
    assert [process.communicate()[0] for process in running] == [f"{len(MIGRATIONS)}\n"] * 5


@pytest.mark.parametrize("table", ["attempts", "reservations"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = 'x'", "DELETE FROM {}"])
def test_the_database_refuses_to_change_what_was_written(config: LedgerConfig, table: str, statement: str) -> None:
    database = open_database(config)
    with transaction(database):
        insert_row(database, a_row())
        database.execute(
            "INSERT INTO reservations (id, reservation_id, budget_id, window_us, event, amount, at_us, instance_id,"
            " is_local) VALUES ('a', 'r', 'b', 0, 'settle', 1, 0, 'i', 0)"
        )
    with pytest.raises(LedgerError, match=f"{table} is append-only"), transaction(database):
        database.execute(statement.format(table))
    database.close()
    assert len(query(config, f"SELECT 1 FROM {table}")) == 1


def test_every_part_of_a_row_comes_back_as_it_was(config: LedgerConfig) -> None:
    values: dict[str, Any] = {
        name: number for number, name in enumerate(COLUMNS) if name.endswith(("_us", "_pico", "_tokens"))
    }
    texts = ("key_id", "project", "error", "cache", "route", "finish_reason", "baseline_model")
    full = a_row(**values, **dict.fromkeys(texts, "x"), tags=("a", "ü", ""), is_stream=True, attempt=3)
    large = a_row(cost_pico=2**62, baseline_pico=0)
    empty = a_row()
    database = open_database(config)
    with transaction(database):
        for row in (full, large, empty):
            assert insert_row(database, row)
            assert not insert_row(database, row)
    database.close()
    assert sorted(rows_of(config), key=lambda row: row.id) == sorted((full, large, empty), key=lambda row: row.id)
    assert empty.cost_pico is None


def test_rows_come_by_time_page_by_page(config: LedgerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.ledger.reader.PAGE_ROWS", 7)
    database = open_database(config)
    rows = [a_row(started_us=100 + number // 3, key_id="ab"[number % 2]) for number in range(50)]
    with transaction(database):
        for row in rows:
            insert_row(database, row)
    database.close()
    between = [row for row in rows if 101 <= row.started_us < 110]
    with open_reader(config.url) as reader:
        found = list(reader.rows(101, 110))
        assert found == sorted(between, key=lambda row: (row.started_us, row.id))
        assert list(reader.rows(101, 110, "a")) == [row for row in found if row.key_id == "a"]
        assert list(reader.rows(200, 300)) == []


def test_there_must_be_a_ledger_to_read(tmp_path: Any) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        open_reader(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("this is not a database, however long one looks at it" * 99)
    with pytest.raises(LedgerError, match="cannot be opened: file is not a database"):
        open_reader(f"sqlite:///{tmp_path / 'text.db'}")


def test_the_books_agree_when_nothing_happened(config: LedgerConfig) -> None:
    open_database(config).close()
    assert problems_of(config) == []


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"url": "mysql://x"}, "ledger url is 'mysql://x'"),
        ({"when_away": "panic"}, "allowed: refuse or spool"),
        ({"synchronous": 3}, "allowed: normal or full"),
        ({"max_spooled_rows": 0}, "max_spooled_rows is 0"),
        ({"max_spooled_rows": 1.5}, "whole number"),
        ({"lock_timeout_s": "5"}, "lock_timeout_s is '5'"),
    ],
)
def test_a_configuration_that_is_wrong_is_told(table: dict[str, Any], expected: str) -> None:
    with pytest.raises(LedgerError, match=expected):
        LedgerConfig(**table)


def test_where_the_ledger_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert LedgerConfig().url == "sqlite:////data/farthing/ledger.db"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert LedgerConfig().url == "sqlite:////home/me/.local/share/farthing/ledger.db"
    below = LedgerConfig(url="sqlite:///a/b.db", spool_folder="spool").below(Path("/there"))
    assert (below.url, below.spool_folder) == ("sqlite:////there/a/b.db", "/there/spool")
    for url in ("sqlite:////data/b.db", "sqlite:///~/b.db", "postgresql://me@host/name"):
        assert LedgerConfig(url=url).below(Path("/there")).url == url

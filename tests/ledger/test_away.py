"""The database is away: calls are refused before they are made, or rows wait on the disk; nothing is lost or twice."""

import asyncio
import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from farthing.ledger import Books, LedgerAway, LedgerConfig
from farthing.ledger.sqlite import SqliteDatabase
from farthing.upstreams.call import Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from tests.ledger.leaf import Leaf, a_call, a_row
from tests.ledger.open_books import books_of, budget_of, problems_of, rows_of, used_of
from tests.ledger.postgres_server import PostgresServer

QUICK = {"lock_timeout_s": 0.05, "stall_timeout_s": 1.0}


async def read(stream: AsyncIterator[Chunk]) -> None:
    async for _ in stream:
        pass


async def until(condition: Any, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody holds the write lock of the file, and does not let go."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def sqlite_config(path: Path, **given: Any) -> LedgerConfig:
    return LedgerConfig(**{"url": f"sqlite:///{path}", "spool_folder": str(path.parent / "spool")} | QUICK | given)


def test_refused_before_the_call_is_made(path: Path) -> None:
    async def tour() -> None:
        async with books_of(sqlite_config(path)) as books:
            leaf = Leaf()
            with locked(path):
                with pytest.raises(LedgerAway):
                    await books.append(a_row())
                assert books.stats().is_away
                with pytest.raises(UpstreamError, match="the ledger is not available") as caught:
                    await read(books.metered(leaf).stream(a_call(), Tally()))
                assert (caught.value.status, caught.value.code) == (503, "ledger_unavailable")
                assert caught.value.retry_after_s
                assert leaf.asked == []
                assert books.stats().num_refused == 1
            await until(lambda: not books.stats().is_away)
            await read(books.metered(leaf).stream(a_call(), Tally()))
        assert len(rows_of(sqlite_config(path))) == 2  # the row that failed was kept, and written when it could be

    asyncio.run(tour())


def test_an_answer_under_way_does_not_end_well_but_its_row_is_written_later(path: Path) -> None:
    async def tour() -> None:
        async with books_of(sqlite_config(path)) as books:
            call = a_call()
            stream: Any = books.metered(Leaf()).stream(call, Tally())
            await anext(stream)
            with locked(path), pytest.raises(LedgerAway):
                await read(stream)
            await until(lambda: books.stats().num_waiting == 0)
            (row,) = rows_of(sqlite_config(path))
            assert (row.request_id, row.status) == (call.id, "ok")

    asyncio.run(tour())


def test_spooled_rows_are_acknowledged_and_written_once(path: Path) -> None:
    config = sqlite_config(path, when_away="spool")

    async def tour() -> None:
        async with books_of(config) as books:
            rows = [a_row() for _ in range(300)]
            with locked(path):
                for row in rows:
                    await books.append(row)
                await read(books.metered(Leaf()).stream(a_call(), Tally()))
                assert books.stats().num_spooled == 301
                assert rows_of(config) == []
            await until(lambda: books.stats().num_spooled == 0)
            assert len({row.id for row in rows_of(config)}) == 301
            await books.append(rows[0])  # a repetition changes nothing
            assert len(rows_of(config)) == 301
        assert list((path.parent / "spool").glob("*")) == []

    asyncio.run(tour())


def test_a_spool_has_an_end(path: Path) -> None:
    config = sqlite_config(path, when_away="spool", max_spooled_rows=3)

    async def tour() -> None:
        async with books_of(config) as books:
            with locked(path):
                for _ in range(3):
                    await books.append(a_row())
                with pytest.raises(LedgerAway):
                    await books.append(a_row())
                with pytest.raises(LedgerAway):
                    await read(books.metered(Leaf()).stream(a_call(), Tally()))
                stats = books.stats()
                assert (stats.num_spooled, stats.num_lost, stats.num_refused) == (3, 1, 1)

    asyncio.run(tour())
    assert len(rows_of(config)) == 3


def test_budgets_are_not_waived_while_it_is_away(path: Path) -> None:
    config = sqlite_config(path, when_away="spool")
    budget_of(config, "200tokens/total", "key", "k")

    async def tour() -> None:
        async with books_of(config) as books:
            begun: Any = books.metered(Leaf()).stream(a_call(key_id="k"), Tally())
            await anext(begun)
            with locked(path):
                await read(begun)  # its row and its settlement wait on the disk
                with pytest.raises(LedgerAway):
                    await read(books.metered(Leaf()).stream(a_call(key_id="k"), Tally()))
                await read(books.metered(Leaf()).stream(a_call(key_id="other"), Tally()))
            await until(lambda: books.stats().num_waiting == 0)
            assert used_of(config) == [(12, 0)]
            assert problems_of(config) == []

    asyncio.run(tour())


def test_what_still_waits_at_the_end_is_found_by_the_next(path: Path) -> None:
    async def tour() -> None:
        books = await Books.open(sqlite_config(path), _pricer())
        with locked(path):
            with pytest.raises(LedgerAway):
                await books.append(a_row())
            await books.aclose()
        assert rows_of(sqlite_config(path)) == []
        async with books_of(sqlite_config(path)) as again:
            await until(lambda: again.stats().num_committed_rows == 1)
        assert len(rows_of(sqlite_config(path))) == 1

    asyncio.run(tour())


def test_a_commit_that_hangs_does_not_hang_its_callers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteDatabase, "commit", _slow_commit)
    config = sqlite_config(path, when_away="spool", stall_timeout_s=0.2)

    async def tour() -> None:
        async with books_of(config) as books:
            row = a_row()
            began = time.monotonic()
            await books.append(row)  # on the disk after 0.2 s
            assert time.monotonic() - began < 0.9
            assert books.stats().is_away
            await until(lambda: books.stats().num_waiting == 0 and not books.stats().is_away)
        assert [found.id for found in rows_of(config)] == [row.id]

    asyncio.run(tour())


def test_a_disk_that_is_full(path: Path) -> None:
    config = sqlite_config(path)

    async def tour() -> None:
        async with books_of(config) as books:
            database: Any = books._writer._database
            database.execute("PRAGMA max_page_count = 1")  # as full as it is now
            results = await asyncio.gather(
                *(books.append(a_row(asked_model="x" * 4000)) for _ in range(50)), return_exceptions=True
            )
            assert any(isinstance(result, LedgerAway) and "full" in str(result) for result in results)
            await until(lambda: books.stats().num_waiting == 0)
            assert len(rows_of(config)) == 50

    asyncio.run(tour())


def test_a_postgres_that_stops_and_starts_under_load(postgres: PostgresServer, tmp_path: Path) -> None:
    config = LedgerConfig(url=postgres.url, spool_folder=str(tmp_path / "spool"), **QUICK)  # type: ignore[arg-type]
    budget_of(config, "100000000tokens/total")

    async def tour() -> None:
        acknowledged: list[str] = []
        is_over = False

        async def client(books: Books) -> None:
            while not is_over:
                call = a_call()
                try:
                    await read(books.metered(Leaf()).stream(call, Tally()))
                    acknowledged.append(call.id)
                except LedgerAway:
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.002)

        async with books_of(config) as books:
            clients = [asyncio.create_task(client(books)) for _ in range(8)]
            await until(lambda: len(acknowledged) > 100)
            await asyncio.to_thread(postgres.stop)
            await until(lambda: books.stats().num_refused > 10)
            assert books.stats().is_away
            num_before = len(acknowledged)
            await asyncio.to_thread(postgres.start)
            await until(lambda: len(acknowledged) > num_before + 100)
            is_over = True
            await asyncio.gather(*clients)
            await until(lambda: books.stats().num_waiting == 0)
        found = [row.request_id for row in rows_of(config)]
        assert len(found) == len(set(found))
        assert set(acknowledged) <= set(found)
        ((used, reserved),) = used_of(config)
        assert (used, reserved) == (12 * len(found), 0)
        assert problems_of(config) == []

    asyncio.run(tour())


def test_a_postgres_that_is_stopped_is_spooled(postgres: PostgresServer, tmp_path: Path) -> None:
    quick: Any = QUICK
    config = LedgerConfig(url=postgres.url, spool_folder=str(tmp_path / "spool"), when_away="spool", **quick)

    async def tour() -> None:
        async with books_of(config) as books:
            before = len(rows_of(config))
            await asyncio.to_thread(postgres.stop)
            rows = [a_row() for _ in range(20)]
            await asyncio.gather(*(books.append(row) for row in rows))
            assert books.stats().num_spooled == 20
            await asyncio.to_thread(postgres.start)
            await until(lambda: books.stats().num_spooled == 0)
            assert len(rows_of(config)) == before + 20

    asyncio.run(tour())


def test_the_url_keeps_its_password() -> None:
    config = LedgerConfig(url="postgresql://me:se.cret@127.0.0.1:1/none?connect_timeout=1")
    assert "se.cret" not in repr(config)
    with pytest.raises(Exception, match="cannot be opened") as caught:
        asyncio.run(Books.open(config, _pricer()))
    assert "se.cret" not in str(caught.value)
    assert dataclasses.replace(config, when_away="spool").url == config.url


def _pricer() -> Any:
    from tests.ledger.leaf import pricer

    return pricer()


_commit = SqliteDatabase.commit


def _slow_commit(database: SqliteDatabase) -> None:
    """The first commit with a row in it takes its time."""
    if not getattr(database, "is_slow_over", False) and database.execute("SELECT 1 FROM attempts").fetchone():
        database.is_slow_over = True  # type: ignore[attr-defined]
        time.sleep(1.0)
    _commit(database)


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [({}, False), ({"when_away": "spool"}, True), ({"when_away": "spool", "max_spooled_rows": 1}, False)],
)
def test_whether_a_row_can_be_kept_is_known_before_an_answer_from_the_cache(
    path: Path, given: dict[str, Any], is_kept: bool
) -> None:
    async def tour() -> None:
        async with books_of(sqlite_config(path, **given)) as books:
            books.check_available()
            with locked(path):
                with contextlib.suppress(LedgerAway):
                    await books.append(a_row())
                assert books.stats().is_away
                with contextlib.nullcontext() if is_kept else pytest.raises(LedgerAway):
                    books.check_available()
            await until(lambda: not books.stats().is_away)
            books.check_available()

    asyncio.run(tour())

"""Metered: whatever ends an attempt, one row is committed before the caller knows that it ended."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.prices import PriceBook
from farthing.economics.usage import Usage
from farthing.ledger import LedgerConfig
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.fallback import Fallback
from tests.ledger.leaf import MODEL, WORDS, Leaf, a_call, a_row, refused
from tests.ledger.open_books import books_of, budget_of, rows_of, used_of


def test_an_answer_is_one_row_when_it_ends(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            call, tally = a_call(key_id="k", project="p", tags=("a", "ü"), is_stream=True), Tally()
            stream = books.metered(Leaf(), provider="openai").stream(call, tally)
            assert [chunk async for chunk in stream] == list(WORDS)
            (row,) = rows_of(config)  # before the books are closed: committed
            assert (row.request_id, row.attempt, row.status, row.error) == (call.id, 0, "ok", None)
            assert (row.key_id, row.project, row.tags, row.is_stream) == ("k", "p", ("a", "ü"), True)
            assert (row.input_tokens, row.output_tokens, row.finish_reason) == (10, 2, "stop")
            assert (row.input_pico, row.output_pico, row.cost_pico) == (10_000_000, 4_000_000, 14_000_000)
            assert (row.baseline_model, row.baseline_pico) == (MODEL, 14_000_000)
            assert row.first_token_us is not None
            assert 0 <= row.first_token_us <= row.total_us
            assert tally.usage == Usage(10, 0, 2)  # the caller's tally shows what the leaf's does
            (receipt,) = call.receipts
            assert (receipt.cost_pico, receipt.status, receipt.usage) == (14_000_000, "ok", tally.usage)

    asyncio.run(tour())


def test_an_error_is_a_row_and_goes_on(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            call, error = a_call(), refused()
            with pytest.raises(UpstreamError) as caught:
                async for _ in books.metered(Leaf(chunks=(), error=error)).stream(call, Tally()):
                    pass
            assert caught.value is error
            leaf = Leaf(name="second")
            async for _ in books.metered(leaf).stream(call, Tally()):
                pass
            first, second = sorted(rows_of(config), key=lambda row: row.attempt)
            assert (first.status, first.error, first.route) == ("error", "upstream_failed", None)
            assert (second.attempt, second.status, second.route) == (1, "ok", "fallback: upstream_failed")
            assert [receipt.status for receipt in call.receipts] == ["error", "ok"]

    asyncio.run(tour())


def test_a_member_that_was_passed_over_is_in_the_route(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            dead, alive = Leaf(chunks=(), error=refused(503), usage=Usage()), Leaf(name="alive")
            assert isinstance(dead.error, UpstreamError)
            dead.error.is_retryable = True
            members = [(books.metered(dead), MODEL), (books.metered(alive), MODEL)]
            both = Fallback("both", members)
            for _ in range(10):
                async for _ in both.stream(a_call(), Tally()):
                    pass
            routes = [row.route for row in rows_of(config) if row.upstream == "alive"]
            assert len(dead.asked) < 10
            assert len(routes) == 10
            assert (routes[0], routes[-1]) == ("fallback: upstream_failed", "fallback: unavailable")

    asyncio.run(tour())


def test_our_own_bug_is_a_row_too(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            with pytest.raises(ZeroDivisionError):
                async for _ in books.metered(Leaf(error=ZeroDivisionError("no"))).stream(a_call(), Tally()):
                    pass
            (row,) = rows_of(config)
            assert (row.status, row.error, row.cost_pico) == ("error", "internal_error", 14_000_000)

    asyncio.run(tour())


def test_a_client_that_closes_the_answer(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            leaf, call = Leaf(usage_source="estimated"), a_call()
            stream: Any = books.metered(leaf).stream(call, Tally())
            assert (await anext(stream)).text == "one"
            await stream.aclose()
            (row,) = rows_of(config)
            assert leaf.is_closed
            assert (row.status, row.usage_source, row.cost_pico) == ("aborted", "estimated", 14_000_000)
            assert call.receipts[0].status == "aborted"

    asyncio.run(tour())


@pytest.mark.parametrize("num_cancels", [1, 2, 5])
def test_cancelled_as_often_as_you_like(config: LedgerConfig, num_cancels: int) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            started = asyncio.Event()

            async def read() -> None:
                async for _ in books.metered(Leaf(is_endless=True)).stream(a_call(), Tally()):
                    started.set()

            task = asyncio.create_task(read())
            await started.wait()
            await asyncio.sleep(0.01)
            for _ in range(num_cancels):
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            (row,) = rows_of(config)
            assert row.status == "aborted"

    asyncio.run(tour())


def test_what_is_not_known_is_null(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            for leaf, call in (
                (Leaf(usage_source="unavailable", usage=Usage()), a_call()),
                (Leaf(), a_call(model="a-model-without-a-price")),
            ):
                async for _ in books.metered(leaf).stream(call, Tally()):
                    pass
            unavailable, unpriced = rows_of(config)
            assert (unavailable.input_tokens, unavailable.output_tokens, unavailable.cost_pico) == (None, None, None)
            assert unavailable.baseline_pico is None
            assert (unpriced.input_tokens, unpriced.cost_pico, unpriced.price_status) == (10, None, "unpriced")

    asyncio.run(tour())


def test_what_used_nothing_costs_nothing_whatever_its_price(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")

    async def tour() -> None:
        async with books_of(config) as books:
            call = a_call(model="a-model-without-a-price")
            with pytest.raises(UpstreamError):
                async for _ in books.metered(Leaf(chunks=(), error=refused(), usage=Usage())).stream(call, Tally()):
                    pass
            async for _ in books.metered(Leaf(usage=Usage())).stream(call, Tally()):
                pass
            unknown = a_call(model="a-model-without-a-price")
            leaf = Leaf(chunks=(), error=refused(), usage=Usage(), usage_source="unavailable")
            with pytest.raises(UpstreamError):
                async for _ in books.metered(leaf).stream(unknown, Tally()):
                    pass
            *known, last = rows_of(config)
            for row in known:
                assert (row.cost_pico, row.output_pico, row.baseline_pico) == (0, 0, 0)
                assert (row.price_status, row.price_version) == ("free", "nothing was used")
            assert [receipt.cost_pico for receipt in call.receipts] == [0, 0]
            assert (last.cost_pico, last.price_status) == (None, "unpriced")
            assert used_of(config) == [(0, 0)]

    asyncio.run(tour())


@pytest.mark.parametrize(
    ("served", "priced_as", "cost"),
    [
        ("in-house-7", "gpt-5-nano", 10 * 50_000 + 2 * 400_000),
        ("gpt-5-mini", "gpt-5-mini", 10 * 250_000 + 2 * 2_000_000),  # it has a price, so that is what it costs
    ],
)
def test_a_name_without_a_price_is_priced_as_the_one_that_was_asked_for(
    config: LedgerConfig, served: str, priced_as: str, cost: int
) -> None:
    class Renaming(Leaf):
        async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
            async for chunk in super().stream(call, tally):
                yield chunk
            tally.model = served

    async def tour() -> None:
        async with books_of(config, pricer=Pricer(PriceBook(), HostCost())) as books:
            async for _ in books.metered(Renaming(), provider="openai").stream(a_call(model="gpt-5-nano"), Tally()):
                pass
            (row,) = rows_of(config)
            assert (row.served_model, row.baseline_model, row.price_status) == (served, priced_as, "priced")
            assert row.price_version.endswith(f", {priced_as} at openai")
            assert row.cost_pico == row.baseline_pico == cost

    asyncio.run(tour())


def test_a_local_answer_is_priced_by_its_seconds(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            leaf = Leaf(usage=Usage(10, 4, 2, input_s=0.5, output_s=0.25), usage_source="engine")
            tally = Tally(usage=Usage(99, 0, 99), is_cut=True, headers={"old": "1"})  # of another attempt
            async for _ in books.metered(leaf, provider="local", is_local=True).stream(a_call(), tally):
                pass
            (row,) = rows_of(config)
            assert (row.price_status, row.provider, row.compute_us) == ("local", "local", 750_000)
            assert (row.input_pico, row.output_pico, row.cost_pico) == (5 * 10**9, 25 * 10**8, 75 * 10**8)
            assert (tally.is_cut, tally.headers) == (False, {})

    asyncio.run(tour())


def test_the_first_token_is_the_first_with_something_in_it(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            async for _ in books.metered(Leaf(chunks=(Chunk(), Chunk(finish_reason="stop")))).stream(a_call(), Tally()):
                pass
            (row,) = rows_of(config)
            assert row.first_token_us is None

    asyncio.run(tour())


def test_a_thousand_at_once_are_a_thousand_rows(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            metered = books.metered(Leaf())

            async def one() -> str:
                call = a_call()
                async for _ in metered.stream(call, Tally()):
                    pass
                return call.id

            names = await asyncio.gather(*(one() for _ in range(1000)))
            assert sorted(row.request_id for row in rows_of(config)) == sorted(names)
            assert books.stats().num_committed_rows == 1000
            assert books.stats().num_queued == 0

    asyncio.run(tour())


@pytest.mark.parametrize("usage", [Usage(10, 20, 2), Usage(-1, 0, 2), Usage(10**30, 0, 2)])
def test_counts_that_cannot_be_lose_no_row(config: LedgerConfig, usage: Usage) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            async for _ in books.metered(Leaf(usage=usage)).stream(a_call(), Tally()):
                pass
            (row,) = rows_of(config)
            assert (row.price_status, row.cost_pico, row.output_tokens) == ("unpriced", None, 2)
            assert row.input_tokens == (10 if usage.input_tokens == 10 else None)

    asyncio.run(tour())


def test_what_a_client_calls_things_loses_no_row(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            call = a_call(asked_model="a\0b\ud800", tags=("\0", "\udfff", "'; DROP TABLE attempts; --", "?", "%s"))
            async for _ in books.metered(Leaf()).stream(call, Tally()):
                pass
            (row,) = rows_of(config)
            assert row.asked_model == "a\ufffdb?"
            assert row.tags == ("\0", "?", "'; DROP TABLE attempts; --", "?", "%s")

    asyncio.run(tour())


def test_a_statement_that_fails_takes_no_other_with_it(config: LedgerConfig) -> None:
    async def tour() -> None:
        async with books_of(config) as books:
            rows = [a_row() for _ in range(20)]
            wrong = a_row(asked_model=None)  # a column that must not be NULL: our own bug
            ends = await asyncio.gather(
                *(books.append(row) for row in rows[:10]),
                books.append(wrong),
                *(books.append(row) for row in rows[10:]),
                return_exceptions=True,
            )
            failed = [end for end in ends if end is not None]
            assert [getattr(end, "code", "") for end in failed] == ["ledger_error"]
            assert {row.id for row in rows_of(config)} == {row.id for row in rows}
            assert not books.stats().is_away
            assert books.stats().num_committed_rows == 20

    asyncio.run(tour())


def test_what_the_database_wrote_is_the_owners_alone(tmp_path: Path) -> None:
    config = LedgerConfig(url=f"sqlite:///{tmp_path}/new/ledger.db", spool_folder=str(tmp_path / "spool"))

    async def tour() -> None:
        async with books_of(config) as books:
            await books.append(a_row())
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
            assert modes == dict.fromkeys(("ledger.db", "ledger.db-wal", "ledger.db-shm"), 0o600)

    asyncio.run(tour())

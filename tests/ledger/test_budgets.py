"""Budgets: an upper bound is set aside before the call, what was used is charged after it, and nobody gets past it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from farthing.economics.usage import Usage
from farthing.ledger import Budget, LedgerConfig, LedgerError
from farthing.ledger.budget import BudgetIndex, parse_amount
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from tests.ledger.leaf import Leaf, a_call, refused
from tests.ledger.open_books import books_of, budget_of, problems_of, query, rows_of, used_of


class Generous(Leaf):
    """Uses every token that it is allowed."""

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.asked.append(call)
        yield Chunk(text="x")
        await asyncio.sleep(0.001)
        most = self.max_usage(call)
        yield Chunk(finish_reason="length")
        tally.usage, tally.usage_source = most, self.usage_source


async def read(stream: AsyncIterator[Chunk]) -> None:
    async for _ in stream:
        pass


def test_reserved_while_it_runs_and_charged_when_it_ends(config: LedgerConfig) -> None:
    budget_of(config, "1000tokens/day")
    budget_of(config, "1usd/month")

    async def tour() -> None:
        async with books_of(config) as books:
            stream: Any = books.metered(Leaf(), provider="x").stream(a_call(), Tally())
            await anext(stream)
            assert used_of(config) == [(0, 110), (0, 10_000_000 + 200_000_000)]
            await read(stream)
            assert used_of(config) == [(12, 0), (14_000_000, 0)]
            assert problems_of(config) == []

    asyncio.run(tour())


def test_a_call_is_made_shorter_until_it_fits(config: LedgerConfig) -> None:
    budget_of(config, "50tokens/day")

    async def tour() -> None:
        async with books_of(config) as books:
            leaf, call, tally = Generous(), a_call(), Tally()
            await read(books.metered(leaf).stream(call, tally))
            assert leaf.asked[0].max_output_tokens == 40
            assert call.max_output_tokens is None
            assert tally.is_cut
            with pytest.raises(
                UpstreamError, match=r"50 tokens per day.* spent 50 tokens, reserved 0 tokens"
            ) as caught:
                await read(books.metered(leaf).stream(a_call(), Tally()))
            assert (caught.value.status, caught.value.code) == (429, "budget_exceeded")
            assert caught.value.retry_after_s is not None
            assert 0 < caught.value.retry_after_s <= 86_400
            assert len(leaf.asked) == len(rows_of(config)) == 1
            assert books.stats().num_over_budget == 1

    asyncio.run(tour())


def test_dollars_fit_to_the_token(config: LedgerConfig) -> None:
    budget_of(config, "0.0000501usd/total")  # 10 tokens in, and 20 out with a bit left over

    async def tour() -> None:
        async with books_of(config) as books:
            leaf = Generous()
            await read(books.metered(leaf, provider="x").stream(a_call(), Tally()))
            assert leaf.asked[0].max_output_tokens == 20
            with pytest.raises(UpstreamError, match=r"spent 0\.00005 USD") as caught:
                await read(books.metered(leaf, provider="x").stream(a_call(), Tally()))
            assert caught.value.retry_after_s is None  # a total never begins anew

    asyncio.run(tour())


def test_dollars_cannot_be_kept_where_no_price_is_known(config: LedgerConfig) -> None:
    budget_of(config, "5usd/month")

    async def tour() -> None:
        async with books_of(config) as books:
            with pytest.raises(UpstreamError, match="no price is known for 'unheard-of'") as caught:
                await read(books.metered(Leaf()).stream(a_call(model="unheard-of"), Tally()))
            assert (caught.value.status, caught.value.code) == (400, "price_unknown")

    asyncio.run(tour())


@pytest.mark.parametrize("amount", ["1000tokens/month", "0.001usd/month"])
def test_many_at_once_never_get_past_it(config: LedgerConfig, amount: str) -> None:
    """Three servers on one ledger, forty calls on each."""
    budget = budget_of(config, amount)

    async def tour() -> None:
        async with books_of(config) as one, books_of(config) as two, books_of(config) as three:
            calls = [
                read(books.metered(Generous(), provider="x").stream(a_call(), Tally()))
                for books in (one, two, three) * 40
            ]
            ends = await asyncio.gather(*calls, return_exceptions=True)
            refusals = [end for end in ends if end is not None]
            assert all(isinstance(end, UpstreamError) and end.code == "budget_exceeded" for end in refusals)
            assert refusals
            ((used, reserved),) = used_of(config)
            assert (used <= budget.amount, reserved) == (True, 0)
            assert used > budget.amount * 0.8
            assert problems_of(config) == []
            rows = rows_of(config)
            assert (
                sum((row.cost_pico if "usd" in amount else row.input_tokens + row.output_tokens) for row in rows)
                == used
            )

    asyncio.run(tour())


def test_an_estimate_that_was_too_low_is_charged_all_the_same(config: LedgerConfig) -> None:
    budget_of(config, "200tokens/total")

    async def tour() -> None:
        async with books_of(config) as books:
            await read(books.metered(Leaf(usage=Usage(300, 0, 2))).stream(a_call(), Tally()))
            assert used_of(config) == [(302, 0)]
            events = query(config, "SELECT event, amount FROM reservations ORDER BY id")
            assert [tuple(event) for event in events] == [("reserve", 110), ("settle", 302)]

    asyncio.run(tour())


@pytest.mark.parametrize(
    ("leaf", "charged"),
    [
        (Leaf(chunks=(), error=refused(), usage_source="unavailable"), 0),  # never answered
        (Leaf(error=refused(), usage_source="unavailable"), 110),  # broke off, nobody knows what it will be billed for
        (Leaf(error=refused(), usage_source="estimated"), 12),
    ],
)
def test_what_a_failure_is_charged(config: LedgerConfig, leaf: Leaf, charged: int) -> None:
    budget_of(config, "200tokens/total")

    async def tour() -> None:
        async with books_of(config) as books:
            with pytest.raises(UpstreamError):
                await read(books.metered(leaf).stream(a_call(), Tally()))
            assert used_of(config) == [(charged, 0)]

    asyncio.run(tour())


def test_whose_budget_it_is(config: LedgerConfig) -> None:
    budget_of(config, "100tokens/total", "key", "k1")
    budget_of(config, "100tokens/total", "tag", "t1")
    budget_of(config, "100tokens/total", "project", "p1")

    async def tour() -> None:
        async with books_of(config) as books:
            metered = books.metered(Leaf(most=Usage(10, 0, 50)))
            for call in (
                a_call(key_id="k1", tags=("t1", "t1")),
                a_call(project="p1"),
                a_call(key_id="k2", tags=("t2",)),
            ):
                await read(metered.stream(call, Tally()))
            assert used_of(config) == [(12, 0), (12, 0), (12, 0)]
            assert len(query(config, "SELECT 1 FROM reservations")) == 8  # of the last call too

    asyncio.run(tour())


def test_requests_are_counted_when_they_are_admitted(config: LedgerConfig) -> None:
    budget_of(config, "3requests/hour", kind="limit")

    async def tour() -> None:
        async with books_of(config) as one, books_of(config) as two:
            ends = await asyncio.gather(
                *(books.admit(None, tags=("a",)) for books in (one, two) * 5), return_exceptions=True
            )
            refusals = [end for end in ends if isinstance(end, UpstreamError)]
            assert len(refusals) == 7
            assert refusals[0].code == "rate_limit_exceeded"
            assert 0 < (refusals[0].retry_after_s or 0) <= 3600
            assert problems_of(config) == []
            await read(one.metered(Leaf()).stream(a_call(), Tally()))  # no reservation of tokens or dollars
            assert len(query(config, "SELECT 1 FROM reservations WHERE budget_id <> ''")) == 3

    asyncio.run(tour())


def test_a_cancelled_reservation_is_given_back(config: LedgerConfig) -> None:
    budget_of(config, "200tokens/total")

    async def tour() -> None:
        async with books_of(config) as books:
            task = asyncio.create_task(read(books.metered(Leaf()).stream(a_call(), Tally())))
            await asyncio.sleep(0)  # it waits for the writer now
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert used_of(config) == [(0, 0)]
        assert problems_of(config) == []

    asyncio.run(tour())


def test_a_window_is_where_its_moment_is() -> None:
    def budget(span: Any) -> Budget:
        return Budget("b", "budget", "global", "", "tokens", span, 1)

    at = int(datetime(2028, 2, 29, 23, 59, 59, 5, tzinfo=UTC).timestamp() * 1e6)

    def moment(at_us: int | None) -> str:
        return "never" if at_us is None else f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M:%S}"

    found = {
        span: (moment(budget(span).window_us(at)), moment(budget(span).ends_us(at)))
        for span in ("minute", "hour", "day", "month", "total")
    }
    assert found == {
        "minute": ("2028-02-29 23:59:00", "2028-03-01 00:00:00"),
        "hour": ("2028-02-29 23:00:00", "2028-03-01 00:00:00"),
        "day": ("2028-02-29 00:00:00", "2028-03-01 00:00:00"),
        "month": ("2028-02-01 00:00:00", "2028-03-01 00:00:00"),
        "total": ("1970-01-01 00:00:00", "never"),
    }


def test_amounts_as_people_write_them() -> None:
    assert parse_amount("5usd/month") == ("usd", "month", 5 * 10**12)
    assert parse_amount("0.000000000001USD/total") == ("usd", "total", 1)
    assert parse_amount("100_000tokens/day") == ("tokens", "day", 100_000)
    assert parse_amount(" 60 requests/minute ") == ("requests", "minute", 60)
    for wrong in (
        "5eur/month",
        "5usd",
        "5usd/year",
        "0usd/day",
        "-1usd/day",
        "1.5tokens/day",
        "1e400usd/day",
        "..usd/day",
        "9999999999usd/day",
        "0.0000000000001usd/day",
        "nanusd/day",
        "",
    ):
        with pytest.raises(LedgerError):
            parse_amount(wrong)


def test_the_index_is_as_good_as_asking_every_budget() -> None:
    def budget(number: int, scope: Any, subject: str) -> Budget:
        return Budget(f"b{number}", "budget", scope, subject, "tokens", "day", 1)

    budgets = [budget(3, "global", ""), budget(1, "tag", "a"), budget(2, "key", "a"), budget(0, "project", "a")]
    index = BudgetIndex(budgets)
    assert [found.id for found in index.of("a", "a", ("a", "a"))] == ["b0", "b1", "b2", "b3"]
    assert [found.id for found in index.of(None, None, ())] == ["b3"]
    assert BudgetIndex().of("a", "a", ("a",)) == []


@pytest.mark.parametrize("is_local", [True, False])
def test_a_local_prompt_is_not_counted_on_the_event_loop(config: LedgerConfig, is_local: bool) -> None:
    budget_of(config, "1000tokens/day")
    counted_in = []

    class Counting(Leaf):
        def max_usage(self, call: Call) -> Usage:
            counted_in.append(threading.current_thread())
            return super().max_usage(call)

    async def tour() -> None:
        async with books_of(config) as books:
            await read(books.metered(Counting(), is_local=is_local).stream(a_call(), Tally()))
            assert used_of(config) == [(12, 0)]

    asyncio.run(tour())
    assert [thread is threading.main_thread() for thread in counted_in] == [not is_local]


def over(num_bytes: int) -> list[Chunk]:
    return [Chunk(text="x" * 100, index=index % 2) for index in range(num_bytes // 100)]


@pytest.mark.parametrize(
    ("num_bytes", "given", "is_over"),
    [
        (1700, {}, False),  # 100 tokens and 8 more, of 16 bytes each
        (1800, {}, True),
        (3600, {"is_stream": False}, False),  # it is there already
    ],
)
def test_a_hosted_stream_ends_at_its_reservation(
    config: LedgerConfig, num_bytes: int, given: dict[str, Any], is_over: bool
) -> None:
    """The provider ignores the limit that it was sent."""
    budget_of(config, "1000tokens/day")

    async def tour() -> None:
        async with books_of(config) as books:
            rest = [*over(3600), Chunk(finish_reason="stop"), Chunk(index=1, finish_reason="stop")]
            leaf, tally = Leaf([*over(num_bytes), *(rest if is_over else rest[-2:])], usage_source="estimated"), Tally()
            call = a_call(**{"is_stream": True} | given)
            chunks = [chunk async for chunk in books.metered(leaf).stream(call, tally)]
            ends = [(chunk.index, chunk.finish_reason) for chunk in chunks[-2:]]
            assert ends == [(index, "length" if is_over else "stop") for index in (0, 1)]
            assert len(chunks) == num_bytes // 100 + 2
            assert leaf.asked[0].max_output_tokens == 100
            assert (tally.is_cut, leaf.is_closed) == (is_over, True)
            (row,) = rows_of(config)
            assert (row.status, row.finish_reason) == ("ok", "length" if is_over else "stop")
            assert used_of(config) == [(12, 0)]  # what the leaf makes of it

    asyncio.run(tour())


@pytest.mark.parametrize("is_ended", [False, True])
def test_what_a_provider_reports_on_the_way_ends_a_stream_too(config: LedgerConfig, is_ended: bool) -> None:
    budget_of(config, "1000tokens/day")

    class Reporting(Leaf):
        async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:  # noqa: ARG002
            yield Chunk(text="x")
            if is_ended:
                yield Chunk(finish_reason="stop")
            tally.usage, tally.usage_source = Usage(10, 0, 101), "provider"
            yield Chunk()
            yield Chunk(finish_reason="stop" if is_ended else None)

    async def tour() -> None:
        async with books_of(config) as books:
            tally = Tally()
            stream = books.metered(Reporting()).stream(a_call(is_stream=True), tally)
            reasons = [chunk.finish_reason async for chunk in stream]
            assert reasons == ([None, "stop", None, "stop"] if is_ended else [None, None, "length"])
            assert tally.is_cut is not is_ended

    asyncio.run(tour())

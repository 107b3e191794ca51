"""Repeats cost nothing, no tenant sees another's answer, and what runs together is computed once."""

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.prices import PriceBook
from farthing.errors import InvalidRequest
from farthing.ledger.row import Row
from farthing.server.response_cache import CachedUpstream, ResponseCache
from farthing.server.response_store import ResponseCacheConfig, ResponseStore, request_key, stored_answer
from farthing.upstreams import Call, Chunk, Tally, UpstreamError
from tests.server.wire_app import USAGE, Fake

TEXT = (Chunk("Hel"), Chunk("lo"), Chunk(finish_reason="stop"))
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


class Books:
    """Keeps rows in a list."""

    def __init__(self) -> None:
        self.pricer = Pricer(PriceBook(), HostCost(Decimal("0.05")), "gpt-5-nano")
        self.rows: list[Row] = []
        self.away: UpstreamError | None = None

    def check_available(self) -> None:
        if self.away is not None:
            raise self.away

    async def append(self, row: Row) -> None:
        await asyncio.sleep(0)
        self.check_available()
        self.rows.append(row)


def call(salt: str = "a", **change: Any) -> Call:
    body = {**BODY, **change.pop("body", {})}
    return Call("r", "chat", body, "m", salt=salt, endpoint="chat", asked_model="m", key_id=salt or None, **change)


async def read(upstream: CachedUpstream, asked: Call, tally: Tally | None = None) -> list[Chunk]:
    return [piece async for piece in upstream.stream(asked, tally or Tally())]


def run(work: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(10):
            await work
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left

    asyncio.run(within())


def cached(upstream: Fake, books: Books | None = None, **config: Any) -> CachedUpstream:
    return ResponseCache(ResponseCacheConfig(True, **config), books or Books()).wrap(upstream)


def test_a_repeat_is_answered_from_the_store_at_cost_0() -> None:
    async def work() -> None:
        upstream, books = Fake(TEXT, usage=replace(USAGE, input_s=1.0, output_s=2.0)), Books()
        cache = cached(upstream, books)
        assert await read(cache, call()) == list(TEXT)
        tally, again = Tally(), call(is_stream=True, project="p", tags=("t",))
        assert await read(cache, again, tally) == list(TEXT)
        assert len(upstream.calls) == 1
        assert tally.usage == USAGE  # the tokens, and no seconds
        assert (tally.model, tally.usage_source) == ("fake-1", "provider")
        [row] = books.rows
        assert (row.cache, row.cost_pico, row.input_pico, row.status, row.compute_us) == ("hit", 0, 0, "ok", 0)
        assert (row.key_id, row.project, row.tags, row.is_stream) == ("a", "p", ("t",), True)
        assert (row.input_tokens, row.output_tokens, row.finish_reason) == (30, 5, "stop")
        assert row.baseline_model == "gpt-5-nano"
        assert row.baseline_pico == 30 * 50_000 + 5 * 400_000  # USD 0.05 and 0.40 per million tokens
        [receipt] = again.receipts
        assert (receipt.cost_pico, receipt.baseline_pico, receipt.cache) == (0, row.baseline_pico, "hit")

    run(work())


def test_tenants_are_kept_apart() -> None:
    async def work() -> None:
        upstream = Fake(TEXT)
        cache = cached(upstream)
        for asked in (call("a"), call("b"), call(""), replace(call(""), key_id="a")):
            await read(cache, asked)
        assert len(upstream.calls) == 4

    run(work())


@pytest.mark.parametrize(
    "change",
    [
        {"body": {"temperature": 1}},
        {"body": {"temperature": None}},
        {"body": {"temperature": 0.5, "seed": None}},
    ],
)
def test_answers_drawn_by_chance_are_given_again_only_where_configured(change: dict[str, Any]) -> None:
    async def work() -> None:
        upstream = Fake(TEXT)
        cache, books = cached(upstream), Books()
        for _ in range(2):
            await read(cache, call(**change))
        assert len(upstream.calls) == 2
        cache = cached(upstream, books, sampled=True)
        for _ in range(2):
            await read(cache, call(**change))
        assert len(upstream.calls) == 3

    run(work())


def test_a_seed_makes_an_answer_repeat() -> None:
    assert request_key("u", call(body={"temperature": 1, "seed": 7}), is_sampled=False) is not None


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"body": {"user": "u"}}, True),
        ({"body": {"metadata": {"a": "b"}}}, True),
        ({"body": {"stream": True, "stream_options": {"include_usage": True}}, "is_stream": True}, True),
        ({"headers": {"traceparent": "00-1"}}, True),
        ({"project": "p", "tags": ("t",)}, True),
        ({"body": {"max_tokens": 5}}, False),
        ({"body": {"model": "n"}}, False),
        ({"body": {"seed": 3}}, False),
        ({"body": {"messages": [{"role": "user", "content": "hi "}]}}, False),
        ({"body": {"never_heard_of": 1}}, False),
        ({"headers": {"anthropic-beta": "x"}}, False),
    ],
)
def test_what_is_the_same_request(change: dict[str, Any], is_same: bool) -> None:
    first, second = request_key("u", call(), is_sampled=False), request_key("u", call(**change), is_sampled=False)
    assert (first == second) is is_same


def test_other_upstreams_models_and_apis_are_other_requests() -> None:
    asked = call()
    keys = {
        request_key("u", asked, is_sampled=False),
        request_key("v", asked, is_sampled=False),
        request_key("u", replace(asked, model="other"), is_sampled=False),
        request_key("u", replace(asked, endpoint="responses"), is_sampled=False),
        request_key("u", replace(asked, wire="messages"), is_sampled=False),
    }
    assert len(keys) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3).map("x".__add__), JSON, max_size=4), st.randoms())
def test_the_order_of_keys_does_not_matter(fields: dict[str, Any], random: Any) -> None:
    items = list(fields.items())
    random.shuffle(items)
    first = request_key("u", call(body=fields), is_sampled=False)
    assert first is not None
    assert request_key("u", call(body=dict(items)), is_sampled=False) == first


@given(JSON, JSON)
def test_bodies_that_differ_have_different_keys(first: Any, second: Any) -> None:
    keys = [request_key("u", call(body={"x": value}), is_sampled=False) for value in (first, second)]
    texts = [json.dumps(value, sort_keys=True) for value in (first, second)]
    assert (keys[0] == keys[1]) == (texts[0] == texts[1])


@pytest.mark.parametrize("value", [10**30, "\ud83d"])
def test_what_has_no_one_form_as_json_is_not_stored(value: Any) -> None:
    assert request_key("u", call(body={"x": value}), is_sampled=False) is None


def test_a_providers_own_json_is_given_again_in_its_own_form_only() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, whole={"id": "theirs"})
        cache = cached(upstream)
        await read(cache, call())
        tally = Tally()
        await read(cache, call(), tally)
        assert tally.whole == {"id": "theirs"}
        assert len(upstream.calls) == 1
        await read(cache, call(is_stream=True))
        assert len(upstream.calls) == 2

    run(work())


@pytest.mark.parametrize(
    ("upstream", "change"),
    [
        (Fake(TEXT, UpstreamError("gone", status=502, code="x")), {}),
        (Fake(TEXT[:2]), {}),  # no finish_reason
        (Fake((Chunk("x", finish_reason="content_filter"),)), {}),
        (Fake(TEXT, is_cut=True), {}),
        (Fake((Chunk("x", finish_reason="length"),)), {"max_output_tokens": 1}),  # another's budget may be larger
    ],
)
def test_only_whole_answers_are_stored(upstream: Fake, change: dict[str, Any]) -> None:
    async def work() -> None:
        cache = cached(upstream)
        for _ in range(2):
            try:
                await read(cache, call(**change))
            except UpstreamError:
                assert upstream.error is not None
        assert len(upstream.calls) == 2

    run(work())


def test_the_store_is_bounded_in_bytes_and_time() -> None:
    now_s = 0.0
    answer = stored_answer([Chunk("x" * 1000, finish_reason="stop")], Tally(), is_stream=False)
    config = ResponseCacheConfig(ttl_s=10, max_bytes=3 * answer.num_bytes)
    store = ResponseStore(config, lambda: now_s)
    for key in (b"1", b"2", b"3"):
        store.put(key, answer)
    assert store.get(b"1", call()) is answer  # now the latest used
    store.put(b"4", answer)
    assert store.get(b"2", call()) is None
    assert store.get(b"1", call()) is answer
    assert (store.stats().num_entries, store.stats().num_bytes) == (3, 3 * answer.num_bytes)
    store.put(b"5", stored_answer([Chunk("x" * 10_000)], Tally(), is_stream=False))
    assert store.get(b"5", call()) is None
    assert store.stats().num_entries == 3
    now_s = 10.0
    assert store.get(b"1", call()) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3000)), max_size=40))
def test_the_store_counts_its_bytes(puts: list[tuple[int, int]]) -> None:
    store = ResponseStore(ResponseCacheConfig(max_bytes=6000))
    kept: dict[bytes, int] = {}
    for name, size in puts:
        answer = stored_answer([Chunk("x" * size)], Tally(), is_stream=False)
        store.put(bytes([name]), answer)
        kept[bytes([name])] = answer.num_bytes
        assert store.stats().num_bytes <= 6000
    held = [key for key in kept if store.get(key, call()) is not None]
    assert store.stats().num_bytes == sum(kept[key] for key in held)
    assert store.stats().num_entries == len(held)


def test_requests_that_come_together_are_computed_once() -> None:
    async def work() -> None:
        upstream, books = Fake(TEXT, pause_s=0.002), Books()
        cache = cached(upstream, books)
        calls = [call(is_stream=True) for _ in range(8)]
        answers = await asyncio.gather(*(read(cache, asked) for asked in calls))
        assert answers == [list(TEXT)] * 8
        assert len(upstream.calls) == 1
        assert len(books.rows) == 7
        assert [asked.receipts[-1].cost_pico for asked in calls] == [1_234_567] + [0] * 7

    run(work())


def test_followers_get_the_pieces_as_they_come() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, gate=asyncio.Event())
        cache = cached(upstream)
        first = asyncio.create_task(read(cache, call(is_stream=True)))
        await asyncio.sleep(0.01)
        seen = []
        async with aclosing(stream(cache, call(is_stream=True))) as pieces:
            async for piece in pieces:
                seen.append(piece.text)
                if len(seen) == 2:
                    assert not first.done()
                    assert upstream.gate is not None
                    upstream.gate.set()
        assert seen == ["Hel", "lo", ""]
        await first

    run(work())


def stream(cache: CachedUpstream, asked: Call) -> AsyncGenerator[Chunk, None]:
    return cast("AsyncGenerator[Chunk, None]", cache.stream(asked, Tally()))


def test_the_computation_goes_on_while_anybody_reads() -> None:
    async def work() -> None:
        upstream, books = Fake(TEXT, gate=asyncio.Event()), Books()
        cache = cached(upstream, books)
        leader = asyncio.create_task(read(cache, call(is_stream=True)))
        await asyncio.sleep(0.01)
        follower = asyncio.create_task(read(cache, call(is_stream=True)))
        quitter = asyncio.create_task(read(cache, call(is_stream=True)))
        await asyncio.sleep(0.01)
        for task in (leader, quitter):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert upstream.num_closed == 0
        assert upstream.gate is not None
        upstream.gate.set()
        assert await follower == list(TEXT)
        assert sorted(row.status for row in books.rows) == ["aborted", "ok"]
        assert await read(cache, call()) == list(TEXT)
        assert len(upstream.calls) == 1

    run(work())


def test_the_computation_stops_when_the_last_reader_has_left() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, gate=asyncio.Event())
        cache, asked = cached(upstream), call(is_stream=True)
        tasks = [asyncio.create_task(read(cache, one)) for one in (asked, call(is_stream=True))]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert upstream.num_closed == 1  # by the time the last one is told
        assert [receipt.status for receipt in asked.receipts] == ["aborted"]
        assert not cache._cache.flights

    run(work())


def test_leaving_early_by_closing_stops_it_too() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, gate=asyncio.Event())
        async with aclosing(stream(cached(upstream), call(is_stream=True))) as pieces:
            await anext(pieces)
        assert upstream.num_closed == 1

    run(work())


def test_a_failure_upstream_is_everybodys() -> None:
    async def work() -> None:
        upstream, books = Fake((), UpstreamError("down", status=502, code="upstream_unreachable"), pause_s=0.0), Books()
        cache = cached(upstream, books)
        calls = [call() for _ in range(3)]
        results = await asyncio.gather(*(read(cache, asked) for asked in calls), return_exceptions=True)
        assert [str(result) for result in results] == ["down"] * 3
        assert len(upstream.calls) == 1
        assert [row.error for row in books.rows] == ["upstream_unreachable"] * 2

    run(work())


def test_an_answer_that_breaks_off_breaks_off_for_all() -> None:
    async def work() -> None:
        upstream = Fake(TEXT[:2], UpstreamError("gone", status=429, code="x"), pause_s=0.002)
        books = Books()
        cache = cached(upstream, books)
        results = await asyncio.gather(*(read(cache, call()) for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["gone"] * 3
        assert len(upstream.calls) == 1  # a first token has come: nothing is tried again
        assert {row.status for row in books.rows} == {"error"}

    run(work())


def test_where_a_budget_of_its_own_stops_the_first_the_next_computes() -> None:
    class Metered(Fake):
        async def stream(self, call: Call, tally: Tally) -> AsyncGenerator[Chunk, None]:  # type: ignore[override]
            await asyncio.sleep(0.002)
            if not self.calls:
                self.calls.append(call)
                raise UpstreamError("no budget left", status=429, code="budget_exceeded")
            async for piece in super().stream(call, tally):
                yield piece

    async def work() -> None:
        upstream, books = Metered(TEXT), Books()
        cache = cached(upstream, books)
        calls = [call(), call(), call()]
        results = await asyncio.gather(*(read(cache, asked) for asked in calls), return_exceptions=True)
        assert str(results[0]) == "no budget left"
        assert results[1:] == [list(TEXT)] * 2
        assert len(upstream.calls) == 2
        assert [row.status for row in books.rows] == ["ok"]

    run(work())


def test_who_has_another_budget_does_not_share_a_computation_that_a_budget_may_cut() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, pause_s=0.002)
        cache = cached(upstream)
        calls = [call(tags=("x",)), call(tags=("y",)), call(project="p"), call(max_output_tokens=3)]
        await asyncio.gather(*(read(cache, asked) for asked in calls))
        assert len(upstream.calls) == 4
        await read(cache, call(tags=("z",)))  # what is stored was not cut, so anybody of the domain may have it
        assert len(upstream.calls) == 4

    run(work())


def test_nothing_is_given_away_while_the_ledger_is_away() -> None:
    async def work() -> None:
        books = Books()
        cache = cached(Fake(TEXT), books)
        await read(cache, call())
        books.away = UpstreamError("the ledger is away", status=503, code="ledger_away")
        with pytest.raises(UpstreamError, match="away"):
            await read(cache, call())

    run(work())


def test_an_answer_whose_row_is_not_written_does_not_end_well() -> None:
    async def work() -> None:
        books = Books()
        cache = cached(Fake(TEXT), books)
        await read(cache, call())
        seen = []

        async def read_on() -> None:
            async for piece in cache.stream(call(), Tally()):
                seen.append(piece)
                books.away = UpstreamError("the ledger is away", status=503, code="ledger_away")

        with pytest.raises(UpstreamError, match="away"):
            await read_on()
        assert seen == list(TEXT)

    run(work())


def test_closing_the_cache_ends_what_runs() -> None:
    async def work() -> None:
        upstream = Fake(TEXT, gate=asyncio.Event())
        cache = cached(upstream)
        reader = asyncio.create_task(read(cache, call()))
        await asyncio.sleep(0.01)
        await cache._cache.aclose()
        with pytest.raises(UpstreamError, match="stops"):
            await reader
        assert upstream.num_closed == 1

    run(work())


def test_it_is_off_unless_switched_on_and_says_what_is_allowed() -> None:
    assert not ResponseCacheConfig().enabled
    with pytest.raises(InvalidRequest, match="ttl_s"):
        ResponseCacheConfig(ttl_s=0)
    with pytest.raises(InvalidRequest, match="max_bytes"):
        ResponseCacheConfig(max_bytes=0)

"""The router as an upstream over metered leaves: who answers, what is billed, and what every row says."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest
from farthing.ledger import Books, LedgerConfig, Row
from farthing.router.calibrate import Goal
from farthing.router.config import RouterConfig
from farthing.router.router import RoutedMember, Router
from farthing.router.train import calibrate, train
from farthing.server.answer_cost import costs_pico
from farthing.upstreams import Call, Chunk, Tally, TokenLogprob, UpstreamError
from tests.ledger.leaf import a_call
from tests.ledger.open_books import books_of, budget_of, problems_of, rows_of
from tests.router.test_signals import with_signals


def logprob(value: float) -> TokenLogprob:
    return TokenLogprob("x", b"x", value, (("x", b"x", value), ("y", b"y", value - 1)))


@dataclass
class Scripted:
    """Says its words with one log-probability each, or fails before or after them."""

    name: str
    words: Sequence[str] = ("one", " two")
    logprob: float = -0.1
    error: UpstreamError | None = None
    is_late: bool = False  # the error comes after the words
    is_hanging: bool = False  # after the words
    num_input: int = 10
    is_cut: bool = False  # by a budget
    asked: list[Call] = field(default_factory=list)

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.asked.append(call)
        tally.model, tally.usage_source = call.model, "engine"
        try:
            if self.error is not None and not self.is_late:
                raise self.error
            for index in range(call.body.get("n", 1)):
                for at, word in enumerate(self.words):
                    await asyncio.sleep(0)
                    tally.usage = Usage(self.num_input, 0, at + 1, 0.25, 0.25)
                    is_wanted = call.body.get("logprobs") is True
                    yield Chunk(word, index, None, (), (logprob(self.logprob),) if is_wanted else ())
                if self.is_hanging:
                    await asyncio.Event().wait()
                if self.error is not None:
                    raise self.error
                tally.is_cut = self.is_cut
                yield Chunk("", index, "stop")
        finally:
            await asyncio.sleep(0)

    def max_usage(self, call: Call) -> Usage:
        del call
        return Usage(10, 0, 10)

    async def models(self) -> list[str]:
        return []

    async def aclose(self) -> None: ...


def failed(code: str = "upstream_failed", status: int = 502, is_retryable: bool = True) -> UpstreamError:
    return UpstreamError(code, status=status, code=code, is_retryable=is_retryable)


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(url=f"sqlite:///{tmp_path / 'ledger.db'}", spool_folder=str(tmp_path / "spool"))


CASCADE = RouterConfig(mode="cascade", min_confidence=0.5)


def router_of(books: Books, leaves: Sequence[Scripted], settings: RouterConfig, **more: Any) -> Router:
    members = []
    for leaf in leaves:
        metered = books.metered(leaf, provider="local", is_local=True)
        model = f"model-{leaf.name}"
        members.append(RoutedMember(metered, model, more.get("price") or partial(metered.price, model), True))
    return Router("auto", members, settings)


def said(text: str = "What is it?", **body: Any) -> Call:
    return a_call(body={"messages": [{"role": "user", "content": text}], **body}, is_stream=True)


async def answer(router: Router, call: Call, tally: Tally | None = None) -> list[Chunk]:
    return [chunk async for chunk in router.stream(call, tally or Tally())]


def text_of(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@asynccontextmanager
async def two(
    config: LedgerConfig, small: Scripted, large: Scripted, settings: RouterConfig = CASCADE
) -> AsyncIterator[Router]:
    async with books_of(config) as books:
        yield router_of(books, (small, large), settings)


def run(config: LedgerConfig, small: Scripted, large: Scripted, call: Call, settings: RouterConfig = CASCADE) -> Any:
    """(the chunks or the error, the tally, the rows)."""

    async def work() -> Any:
        tally = Tally()
        async with two(config, small, large, settings) as router:
            try:
                found: Any = await answer(router, call, tally)
            except UpstreamError as error:
                found = error
            return found, tally, router.router_stats()

    found, tally, stats = asyncio.run(work())
    return found, tally, rows_of(config), stats


def check_books(config: LedgerConfig, call: Call, rows: Sequence[Row]) -> None:
    """Every attempt has one row, numbered in order; what the client is told is what the rows say."""
    assert not problems_of(config)
    assert [row.attempt for row in rows] == list(range(len(rows)))
    assert {row.request_id for row in rows} == {call.id}
    assert [receipt.cost_pico for receipt in call.receipts] == [row.cost_pico for row in rows]


def test_a_confident_draft_is_given_without_what_nobody_asked_for(config: LedgerConfig) -> None:
    small, large, call = Scripted("small"), Scripted("large"), said()
    chunks, tally, rows, stats = run(config, small, large, call)
    assert (text_of(chunks), large.asked) == ("one two", [])
    assert small.asked[0].body["logprobs"] is True
    assert not any(chunk.logprobs for chunk in chunks)
    assert tally.route == rows[0].route == "cascade kept: confidence 0.90"
    assert (rows[0].status, rows[0].served_model) == ("ok", "model-small")
    assert stats.requests == {("model-small", "cascade kept"): 1}
    check_books(config, call, rows)


def test_log_probabilities_come_as_they_were_asked_for(config: LedgerConfig) -> None:
    chunks, *_ = run(config, Scripted("small"), Scripted("large"), said(logprobs=True, top_logprobs=1))
    assert [len(entry.top) for chunk in chunks for entry in chunk.logprobs] == [1, 1]


def test_a_doubtful_draft_is_discarded_and_paid(config: LedgerConfig) -> None:
    small, large, call = Scripted("small", logprob=-3.0), Scripted("large", ("better",)), said()
    chunks, tally, rows, stats = run(config, small, large, call)
    assert text_of(chunks) == "better"
    assert [(row.status, row.served_model) for row in rows] == [("discarded", "model-small"), ("ok", "model-large")]
    assert {row.route for row in rows} == {tally.route} == {"cascade escalated: confidence 0.05"}
    assert all((row.cost_pico or 0) > 0 for row in rows)
    assert (stats.num_drafts, stats.num_escalated) == (1, 1)
    assert "logprobs" not in large.asked[0].body
    check_books(config, call, rows)


@pytest.mark.parametrize(
    ("body", "words", "wrong"),
    [
        ({"response_format": {"type": "json_object"}}, ("{",), "not JSON"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"required": ["a"]}}}},
            ('{"b": 1}',),
            "not of its schema",
        ),
        ({}, (" ",), "empty"),
    ],
)
def test_a_draft_of_the_wrong_form_is_not_given(config: LedgerConfig, body: Any, words: Any, wrong: str) -> None:
    chunks, tally, rows, _ = run(config, Scripted("small", words), Scripted("large", ("{}",)), said(**body))
    assert (text_of(chunks), tally.route) == ("{}", f"cascade escalated: {wrong}")
    assert [row.status for row in rows] == ["discarded", "ok"]


@pytest.mark.parametrize(
    ("small", "route", "statuses"),
    [
        (Scripted("small", error=failed()), "fallback: upstream_failed", ["error", "ok"]),
        (
            Scripted("small", error=failed(is_retryable=False), is_late=True),
            "fallback: upstream_failed",
            ["error", "ok"],
        ),
        (
            Scripted("small", error=failed("context_length_exceeded", 400, False)),
            "router context: longer than the model before takes",
            ["error", "ok"],
        ),
        (
            Scripted("small", error=failed("unsupported_parameter", 400, False)),
            "fallback: unsupported_parameter",
            ["error", "ok"],
        ),
    ],
)
def test_what_the_small_one_cannot_the_next_one_does(
    config: LedgerConfig, small: Scripted, route: str, statuses: list[str]
) -> None:
    for how in (CASCADE, RouterConfig(share=0.0)):
        call = said()
        small.asked.clear()
        if how.mode == "route" and small.is_late:
            continue  # its client has read a part of it
        chunks, tally, rows, _ = run(config, small, Scripted("large", ("better",)), call, how)
        rows = [row for row in rows if row.request_id == call.id]
        assert (text_of(chunks), tally.route) == ("better", route)
        assert [row.status for row in rows] == statuses
        check_books(config, call, rows)


def test_what_nobody_may_do_is_an_error(config: LedgerConfig) -> None:
    large = Scripted("large")
    error, _, rows, _ = run(config, Scripted("small", error=failed("invalid_value", 400, False)), large, said())
    assert (error.code, [row.status for row in rows], large.asked) == ("invalid_value", ["error"], [])


def test_the_draft_is_better_than_no_answer(config: LedgerConfig) -> None:
    call = said()
    chunks, tally, rows, _ = run(config, Scripted("small", logprob=-3.0), Scripted("large", error=failed()), call)
    assert (text_of(chunks), tally.model) == ("one two", "model-small")
    assert tally.route == "cascade kept: nobody else could answer"
    assert [row.status for row in rows] == ["discarded", "error"]
    check_books(config, call, rows)


def test_several_choices_are_not_checked(config: LedgerConfig) -> None:
    small, large = Scripted("small"), Scripted("large")
    chunks, tally, _, _ = run(config, small, large, said(n=2))
    assert ({chunk.index for chunk in chunks}, small.asked) == ({0, 1}, [])
    assert tally.route == "router choices: n > 1"


def test_samples_are_an_attempt_of_their_own(config: LedgerConfig, tmp_path: Path) -> None:
    rows = with_signals(300, 1)
    calibrate(train(rows), with_signals(300, 2), Goal("share", 0.9), "cascade").save(tmp_path / "file")
    sampled = RouterConfig(file=tmp_path / "file", mode="cascade", samples=2, sample_tokens=5)
    for logprob, status in ((-0.2, "ok"), (-2.0, "discarded")):
        small, call = Scripted("small", ("It is so.",), logprob), said(rows.prompts[0], seed=1, max_tokens=50)
        chunks, tally, found, _ = run(config, small, Scripted("large", ("better",)), call, sampled)
        found = [row for row in found if row.request_id == call.id]
        assert [row.status for row in found[:2]] == ["discarded", status]
        assert found[0].route == "cascade sample"
        asked = small.asked[0].body
        assert (asked["n"], asked["max_tokens"], asked["temperature"], "seed" in asked) == (2, 5, 0.7, False)
        assert small.asked[1].body["max_tokens"] == 50
        assert text_of(chunks) == ("It is so." if status == "ok" else "better")
        assert (tally.route or "").startswith("cascade kept" if status == "ok" else "cascade escalated")
        check_books(config, call, found)


def test_who_failed_three_times_is_passed_over(config: LedgerConfig) -> None:
    async def work() -> tuple[int, str | None]:
        small, tally = Scripted("small", error=failed()), Tally()
        async with two(config, small, Scripted("large")) as router:
            for _ in range(5):
                await answer(router, said(), tally)
        return len(small.asked), tally.route

    assert asyncio.run(work()) == (3, "fallback: unavailable")


def test_what_a_budget_ended_is_kept(config: LedgerConfig) -> None:
    """A dearer model would not even begin."""
    large = Scripted("large")
    chunks, tally, _, _ = run(config, Scripted("small", logprob=-3.0, is_cut=True), large, said())
    assert (text_of(chunks), tally.route, large.asked) == ("one two", "cascade kept: budget", [])


def test_a_budget_without_room_for_the_next_leaves_the_draft(config: LedgerConfig) -> None:
    """And a refusal by a budget is no reason to ask another model."""
    budget_of(config, "13tokens/day")
    small, large = Scripted("small", logprob=-3.0), Scripted("large")
    error, _, rows, _ = run(config, small, large, said())
    assert [row.served_model for row in rows] == ["model-small"]
    assert (text_of(error), large.asked) == ("one two", [])
    error, _, rows, _ = run(config, small, large, said())
    assert (error.code, len(rows), large.asked) == ("budget_exceeded", 1, [])


OUTCOMES = ("kept", "doubtful", "fails", "breaks", "refuses")


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_every_attempt_is_billed_once_and_the_costs_add_up(calls: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        config = LedgerConfig(url=f"sqlite:///{folder}/ledger.db", spool_folder=f"{folder}/spool")

        async def work() -> list[tuple[Call, int]]:
            done = []
            async with books_of(config) as books:
                small, large = Scripted("small"), Scripted("large")
                router = router_of(books, (small, large), CASCADE)
                for outcomes in calls:
                    before = len(small.asked) + len(large.asked)
                    for leaf, outcome in zip((small, large), outcomes, strict=True):
                        leaf.logprob = -3.0 if outcome == "doubtful" else -0.1
                        refusal = failed("invalid_value", 400, False) if outcome == "refuses" else failed()
                        leaf.error = refusal if outcome in ("fails", "breaks", "refuses") else None
                        leaf.is_late = outcome == "breaks"
                    call = said()
                    with suppress(UpstreamError):
                        await answer(router, call)
                    done.append((call, len(small.asked) + len(large.asked) - before))
            return done

        done, rows = asyncio.run(work()), rows_of(config)
        for call, num_asked in done:
            mine = [row for row in rows if row.request_id == call.id]
            assert len(mine) == num_asked
            assert sum(row.status == "ok" for row in mine) <= 1
            check_books(config, call, mine)
            known = [row.cost_pico for row in mine]
            assert costs_pico(call.receipts)[0] == sum(cost for cost in known if cost is not None)


def test_a_share_of_the_prompts_goes_to_the_large_one(config: LedgerConfig) -> None:
    prompts = [("if not only " * at) + "word " * at for at in range(1, 61)]
    random.Random(7).shuffle(prompts)

    async def work() -> Any:
        async with two(config, Scripted("small"), Scripted("large"), RouterConfig(share=0.25)) as router:
            for prompt in prompts:  # they become known
                await answer(router, said(prompt))
            before = dict(router.router_stats().requests)
            for prompt in prompts:
                await answer(router, said(prompt))
            return before, router.router_stats().requests

    before, after = asyncio.run(work())
    assert after["model-large", "router"] - before["model-large", "router"] in range(12, 19)
    assert rows_of(config)[-1].route.startswith("router: prior 0.")


def test_the_clients_of_a_cascade_may_leave_at_any_moment(config: LedgerConfig) -> None:
    """However many steps are let happen before: every attempt that began has one row."""

    async def work() -> set[tuple[str, ...]]:
        seen = set()
        async with books_of(config) as books:
            for num_steps in range(0, 60, 2):
                router = router_of(books, (Scripted("small", logprob=-3.0), Scripted("large")), CASCADE)
                call = said()
                task = asyncio.create_task(answer(router, call))
                for _ in range(num_steps):
                    await asyncio.sleep(0.0005)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                rows = [row for row in rows_of(config) if row.request_id == call.id]
                assert len(rows) == len(call.receipts)
                if rows:
                    check_books(config, call, rows)
                seen.add(tuple(row.status for row in rows))
        return seen

    seen = asyncio.run(work())
    assert ("discarded", "ok") in seen
    assert any("aborted" in statuses for statuses in seen) or () in seen


def test_a_stream_that_is_closed_during_the_draft_is_aborted(config: LedgerConfig) -> None:
    async def work() -> None:
        small = Scripted("small", is_hanging=True)
        async with two(config, small, Scripted("large")) as router:
            task = asyncio.create_task(answer(router, said()))
            while not small.asked:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(work())
    [row] = rows_of(config)
    assert (row.status, row.served_model, row.route) == ("aborted", "model-small", "cascade: cut")


def test_a_conversation_stays_where_it_is_cached(config: LedgerConfig) -> None:
    """First turn long (large), second short: the prior alone would send it to the small one."""
    hard = "if not only " * 50
    first = [{"role": "user", "content": hard}]
    more = [{"role": "assistant", "content": "one two"}, {"role": "user", "content": "ok"}]

    async def work(prices: dict[str, float]) -> str | None:
        async with books_of(config) as books:
            members = []
            for leaf in (Scripted("small"), Scripted("large", num_input=160)):
                metered = books.metered(leaf, provider="local", is_local=True)
                per_token, cached = prices[leaf.name], 0.1 * prices[leaf.name]

                def price(used: Usage, per_token: float = per_token, cached: float = cached) -> int:
                    fresh = used.input_tokens - used.cache_read_tokens
                    return round(1000 * (per_token * fresh + cached * used.cache_read_tokens))

                members.append(RoutedMember(metered, leaf.name, price, True))
            router = Router("auto", members, RouterConfig(share=0.5))
            for text in ("aaaaa", "bbbbbb", "ccccc"):
                await answer(router, said(text))
            tally = Tally()
            await answer(router, a_call(body={"messages": first}), tally)
            assert tally.model == "large"
            await answer(router, a_call(body={"messages": first + more}), tally)
            return tally.route

    staying = asyncio.run(work({"small": 1.0, "large": 1.01}))
    moving = asyncio.run(work({"small": 0.01, "large": 10.0}))
    assert (staying or "").startswith("sticky: moving costs ")
    assert (moving or "").startswith("router: prior ")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "needs share"),
        ({"mode": "cascade"}, "needs min_confidence"),
        ({"mode": "both"}, "needs a file"),
        ({"share": 0.5, "price": 1.0}, "price needs a file"),
        ({"share": 2.0}, "0 to 1"),
        ({"mode": "cascade", "min_confidence": 0.5, "samples": 1}, "samples needs a file"),
        ({"mode": "cascade", "min_confidence": 0.5, "share": 0.5}, "mode route"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        RouterConfig(**given)

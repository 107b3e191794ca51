"""A budget of local dollars is overspent by one step of the engine at most, whatever the steps cost; of each engine,
where several work for it."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from farthing.economics.charge import pico
from farthing.economics.usage import Usage
from farthing.engine import Engine, EngineConfig
from farthing.ledger import LedgerConfig
from farthing.ledger.metered import Metered
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.engine_thread import EngineThread
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.job import Job
from tests.engine.fake import FakeKernels, FakeModel, greedy
from tests.ledger.leaf import USD_PER_HOUR, Leaf, a_call
from tests.ledger.open_books import books_of, budget_of, problems_of, rows_of, used_of

SECOND = pico(USD_PER_HOUR) // 3600  # a cent; also what a call begins with


class Steps:
    """A clock by which the engine's steps take so many milliseconds, one after the other and again."""

    def __init__(self, costs_ms: list[int]) -> None:
        self.costs_ns = [cost * 1_000_000 for cost in costs_ms]
        self.now = self.num_read = 0

    def __call__(self) -> int:
        self.num_read += 1
        if self.num_read % 2 == 0:  # read where a step begins, and where it ends
            self.now += self.costs_ns[self.num_read // 2 % len(self.costs_ns)]
        return self.now


class EngineLeaf(Leaf):
    """Calls through a real engine and its thread; the body says the length of prompt and answer."""

    def __init__(self, costs_ms: list[int], **config: Any) -> None:
        super().__init__()
        steps = EngineConfig(page_size=8, num_pages=64, **config)

        def make() -> Engine:
            return Engine(FakeModel(), steps, kernels=FakeKernels(), clock_ns=Steps(costs_ms))  # type: ignore[arg-type]

        self.thread = EngineThread(make(), make, 1000)
        self.num_submitted = 0

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.usage_source = "engine"
        self.num_submitted += 1
        prompt = [(self.num_submitted + at) % 29 for at in range(call.body["prompt"])]  # of its own: nothing is cached
        request = greedy(self.num_submitted % 29, *prompt, max_tokens=call.body["most"], ignore_eos=True)
        job = Job([request], allowance=call.allowance, tally=tally)
        self.thread.submit(job)
        try:
            while pieces := await job.pieces():
                for piece in pieces:
                    yield Chunk(text=piece.text, finish_reason=piece.finish_reason)
        finally:
            await self.thread.end(job)

    def max_usage(self, call: Call) -> Usage:
        return Usage(call.body["prompt"] + 1, 0, call.body["most"])


calls = st.tuples(
    st.sampled_from([0, 0, 0, 2, 5]),  # milliseconds after which it comes
    st.sampled_from(["k1", "k2"]),
    st.sampled_from([(), ("t1",), ("t2",), ("t1", "t2")]),
    st.sampled_from([1, 15, 40]),
    st.integers(1, 12),
)
budgets = st.tuples(
    st.sampled_from([("global", ""), ("key", "k1"), ("key", "k2"), ("tag", "t1"), ("tag", "t2")]),
    st.sampled_from(["day", "month"]),
    st.integers(10, 60),  # tenths of a second
)


# Three prompts in three steps of three seconds, of a model whose pace nobody has measured; the budget has three.
@example([3000], [(("global", ""), "day", 30)], [(0, "k1", (), 40, 4)] * 3, 16, (1, 1))
@given(
    st.one_of(st.lists(st.sampled_from([0, 100, 4000]), min_size=1, max_size=8), st.just([3000])),
    st.lists(budgets, min_size=1, max_size=4),
    st.lists(calls, min_size=1, max_size=10),
    st.sampled_from([4, 16, 64]),
    st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2)]),  # servers on the ledger, engines in each
)
@settings(max_examples=60, deadline=None)
def test_one_step_at_most(
    costs_ms: list[int],
    allowed: list[tuple[tuple[Any, str], str, int]],
    asked: list[tuple[int, str, tuple[str, ...], int, int]],
    tokens_a_step: int,
    places: tuple[int, int],
) -> None:
    num_servers, num_engines = places
    with tempfile.TemporaryDirectory() as folder:
        config = LedgerConfig(url=f"sqlite:///{Path(folder) / 'ledger.db'}", spool_folder=folder)
        for (scope, subject), span, tenths in allowed:
            budget_of(config, f"{tenths / 1000}usd/{span}", scope, subject)
        leaves = [
            [EngineLeaf(costs_ms, max_num_batched_tokens=tokens_a_step) for _ in range(num_engines)]
            for _ in range(num_servers)
        ]
        asyncio.run(_live(config, leaves, asked))
        most_over = num_servers * num_engines * max(costs_ms) * SECOND // 1000
        amounts = [tenths * SECOND // 10 for _, _, tenths in allowed]
        for amount, (used, reserved) in zip(amounts, used_of(config), strict=True):
            assert reserved == 0
            assert used <= amount + most_over + len(asked)  # a call's cost is rounded once
        rows = rows_of(config)
        assert all(row.status == "ok" or row.error == "budget_exceeded" for row in rows)
        assert problems_of(config) == []


async def _live(
    config: LedgerConfig, leaves: list[list[EngineLeaf]], asked: list[tuple[int, str, tuple[str, ...], int, int]]
) -> None:
    async with AsyncExitStack() as stack:
        served = []
        for engines in leaves:
            books = await stack.enter_async_context(books_of(config))
            served += [books.metered(leaf, provider="local", is_local=True) for leaf in engines]

        async def one(metered: Metered, after_ms: int, key: str, tags: tuple[str, ...], prompt: int, most: int) -> None:
            await asyncio.sleep(after_ms / 1000)
            call = a_call(key_id=key, tags=tags, body={"prompt": prompt, "most": most})
            with suppress(UpstreamError):
                async for _ in metered.stream(call, Tally()):
                    pass

        try:
            await asyncio.gather(*(one(served[at % len(served)], *given_) for at, given_ in enumerate(asked)))
        finally:
            for leaf in chain(*leaves):
                await leaf.thread.aclose()

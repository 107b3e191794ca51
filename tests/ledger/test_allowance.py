"""Local dollars: they show only as a call runs, so it gets them in tranches, and stops when there are no more."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from farthing.economics.charge import pico
from farthing.economics.usage import Usage
from farthing.ledger import LedgerConfig
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from tests.ledger.leaf import USD_PER_HOUR, Leaf, a_call
from tests.ledger.open_books import books_of, budget_of, problems_of, rows_of, used_of

SECOND = pico(USD_PER_HOUR) // 3600  # a cent, in pico-dollars


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """These steps take no time at all, and the ledger's thread may have to wait for the processor."""
    monkeypatch.setattr("farthing.ledger.allowance.MAX_WAIT_S", 20.0)


class Machine:
    """An engine of one step at a time: the seconds of a step are shared by the calls in it."""

    def __init__(self, step_s: float, prompt_s: float = 0.0) -> None:
        self.step_s, self.prompt_s = step_s, prompt_s
        self.running: dict[int, tuple[Call, Tally]] = {}
        self.num_steps = 0

    def step(self) -> None:
        """After it the engine asks every call's allowance, in its own thread."""
        self.num_steps += 1
        share = self.step_s / len(self.running)
        for call, tally in self.running.values():
            old = tally.usage
            prompt_s = self.prompt_s if old.output_tokens == 0 else 0.0
            tally.usage = Usage(10, 0, old.output_tokens + 1, old.input_s + prompt_s, old.output_s + share)
            assert call.allowance is not None
            call.allowance.charge(tally.usage)
        for number, (call, tally) in list(self.running.items()):
            assert call.allowance is not None
            if not call.allowance.covers() or tally.usage.output_tokens >= 1000:
                tally.is_cut = True
                del self.running[number]


class Local(Leaf):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.asked.append(call)
        number = len(self.asked)
        self.machine.running[number] = (call, tally)
        tally.usage_source = "engine"
        while number in self.machine.running:
            await asyncio.sleep(0)
        yield Chunk(text="x", finish_reason="length")


async def run(config: LedgerConfig, machine: Machine, num_calls: int) -> list[BaseException | None]:
    async with books_of(config) as books:
        leaf = Local(machine)
        metered = books.metered(leaf, provider="local", is_local=True)

        async def one() -> None:
            async for _ in metered.stream(a_call(), Tally()):
                pass

        tasks = [asyncio.create_task(one()) for _ in range(num_calls)]
        while not all(task.done() for task in tasks):
            if machine.running:
                await asyncio.to_thread(machine.step)
            await asyncio.sleep(0.0005)
        return [task.exception() for task in tasks]


@pytest.mark.parametrize("num_calls", [1, 8])
def test_it_stops_at_the_budget(config: LedgerConfig, num_calls: int) -> None:
    budget_of(config, "0.1usd/total")  # ten seconds
    machine = Machine(step_s=0.25)
    ends = asyncio.run(run(config, machine, num_calls))
    ((used, reserved),) = used_of(config)
    assert reserved == 0
    assert used <= 10 * SECOND + SECOND // 4  # at most one step
    assert used >= 8 * SECOND  # and it did get what it was given
    assert all(end is None or isinstance(end, UpstreamError) for end in ends)
    assert problems_of(config) == []
    rows = rows_of(config)
    assert sum(row.cost_pico or 0 for row in rows) == used
    assert {row.finish_reason for row in rows} == {"length"}


def test_a_prompt_longer_than_the_tranche_is_recorded_at_once(config: LedgerConfig) -> None:
    budget_of(config, "0.02usd/total")  # two seconds; the prompt takes three
    asyncio.run(run(config, Machine(step_s=0.1, prompt_s=3.0), 1))
    ((used, reserved),) = used_of(config)
    assert reserved == 0
    assert used == pytest.approx(3.1 * SECOND, rel=1e-6)  # one step too far, as said


def test_a_budget_with_room_never_stops_it(config: LedgerConfig) -> None:
    budget_of(config, "1000usd/total")
    machine = Machine(step_s=0.25)
    asyncio.run(run(config, machine, 2))
    assert [row.output_tokens for row in rows_of(config)] == [1000, 1000]


def test_no_dollars_left_is_refused_before_it_begins(config: LedgerConfig) -> None:
    budget_of(config, "0.01usd/total")

    async def tour() -> None:
        async with books_of(config) as books:
            leaf = Leaf(usage=Usage(10, 0, 2, 2.0), usage_source="engine")
            metered = books.metered(leaf, is_local=True)
            async for _ in metered.stream(a_call(), Tally()):
                pass
            with pytest.raises(UpstreamError, match=r"spent 0\.02 USD") as caught:
                await anext(metered.stream(a_call(), Tally()))  # type: ignore[arg-type]
            assert caught.value.code == "budget_exceeded"

    asyncio.run(tour())


def test_covers_does_not_wait_for_a_writer_that_hangs(config: LedgerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.ledger.allowance.MAX_WAIT_S", 0.1)
    budget_of(config, "1000usd/total")

    async def tour() -> None:
        async with books_of(config) as books:
            leaf = Leaf(is_endless=True, usage_source="engine")
            stream: Any = books.metered(leaf, is_local=True).stream(a_call(), Tally())
            await anext(stream)
            allowance = leaf.asked[0].allowance
            assert allowance is not None
            held = asyncio.get_running_loop().create_future()
            books._writer.call(
                lambda _: time.sleep(0.6), lambda *_: held.get_loop().call_soon_threadsafe(held.set_result, 1)
            )
            began = time.monotonic()
            allowance.charge(Usage(10, 0, 1, 5.0))
            assert not allowance.covers()  # beyond its tranche, and nobody answers
            assert time.monotonic() - began < 0.5
            await held
            await stream.aclose()

    asyncio.run(tour())

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import Call, Chunk, Tally, UpstreamError
from farthing.upstreams.fallback import Fallback
from tests.upstreams.provider import collect, make_call, run


def failed(code: str = "upstream_failed", is_retryable: bool = True) -> UpstreamError:
    return UpstreamError(code, status=502, code=code, is_retryable=is_retryable)


@dataclass
class Scripted:
    """Does what its script says, a line per call: an error, or an answer of so many chunks and then maybe an error."""

    name: str
    script: list[tuple[int, UpstreamError | None]]
    calls: list[Call] = field(default_factory=list)
    num_open: int = 0

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        assert (tally.model, tally.headers) == ("", {})
        tally.model, tally.headers["x-request-id"] = call.model, self.name
        self.calls.append(call)
        num_chunks, error = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.num_open += 1
        try:
            for _ in range(num_chunks):
                yield Chunk(self.name)
            if error is not None:
                raise error
        finally:
            self.num_open -= 1

    def max_usage(self, call: Call) -> Usage:
        if self.name == "refuses":
            raise failed(is_retryable=False)
        return Usage(len(self.name), 0, len(call.model))

    async def models(self) -> list[str]:
        return []

    async def aclose(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def pair(
    one: list[tuple[int, UpstreamError | None]], other: list[tuple[int, UpstreamError | None]]
) -> tuple[Scripted, Scripted, Fallback, Clock]:
    a, b, clock = Scripted("a", one), Scripted("b", other), Clock()
    return a, b, Fallback("both", [(a, "model-a"), (b, "model-b")], clock), clock


def test_the_next_is_tried_with_its_own_model() -> None:
    a, b, both, _ = pair([(0, failed("upstream_unreachable"))], [(2, None)])
    tally = Tally()
    chunks = run(collect(both, make_call(), tally))
    assert [chunk.text for chunk in chunks] == ["b", "b"]
    assert (a.calls[0].model, a.calls[0].route) == ("model-a", None)
    assert (b.calls[0].model, b.calls[0].route) == ("model-b", "fallback: upstream_unreachable")
    assert (tally.model, tally.headers) == ("model-b", {"x-request-id": "b"})
    assert a.calls[0].receipts is b.calls[0].receipts


def test_not_after_the_first_chunk_and_not_what_cannot_succeed() -> None:
    for script in ((1, failed(is_retryable=True)), (0, failed("invalid_request", is_retryable=False))):
        a, b, both, _ = pair([script], [(1, None)])
        with pytest.raises(UpstreamError) as caught:
            run(collect(both, make_call(), Tally()))
        assert caught.value is script[1]
        assert (len(b.calls), a.num_open) == (0, 0)


def test_the_last_error_is_raised() -> None:
    last = failed("upstream_timeout")
    _, _, both, _ = pair([(0, failed())], [(0, last)])
    with pytest.raises(UpstreamError) as caught:
        run(collect(both, make_call(), Tally()))
    assert caught.value is last


def test_who_failed_three_times_is_passed_over_for_a_while() -> None:
    a, b, both, clock = pair([(0, failed())], [(1, None)])

    def ask(times: int) -> int:
        before = len(a.calls)
        for _ in range(times):
            run(collect(both, make_call(), Tally()))
        return len(a.calls) - before

    assert ask(5) == 3
    assert b.calls[-1].route == "fallback: unavailable"
    clock.now_s = 9.9
    assert ask(2) == 0
    clock.now_s = 10.0
    assert ask(3) == 1  # half-open: one tries, fails, and it is open for 20 s
    clock.now_s = 29.9
    assert ask(2) == 0
    clock.now_s = 30.0
    a.script = [(1, None)]
    assert ask(4) == 4
    a.script = [(0, failed())]
    assert ask(4) == 3


def test_who_says_at_once_that_it_cannot_yet_is_asked_again() -> None:
    """A classifier's slot is empty until its first version comes, and then it answers: nobody waited for it to fail."""
    empty = UpstreamError("no version yet", status=503, code="no_version", is_retryable=True, is_failure=False)
    first, _, both, _ = pair([*[(0, empty)] * 8, (1, None)], [(1, None)])
    for _ in range(9):
        run(collect(both, make_call(), tally := Tally()))
    assert len(first.calls) == 9
    assert tally.model == "model-a"


def test_a_half_open_one_is_tried_by_one_call_at_a_time() -> None:
    a, _, both, clock = pair([(0, failed())], [(1, None)])
    for _ in range(3):
        run(collect(both, make_call(), Tally()))
    clock.now_s = 10.0
    a.script = [(3, None)]

    async def two() -> tuple[str, str]:
        first = both.stream(make_call(), Tally())
        second_texts = ""
        first_task = asyncio.ensure_future(anext(first))
        second = both.stream(make_call(), Tally())
        second_texts = (await anext(second)).text
        first_text = (await first_task).text
        for chunks in (first, second):
            await chunks.aclose()  # type: ignore[attr-defined]
        return first_text, second_texts

    assert set(run(two())) <= {"a", "b"}
    assert a.num_open == 0


def test_a_trial_that_was_abandoned_is_no_verdict() -> None:
    a, _, both, clock = pair([(0, failed())], [(1, None)])
    for _ in range(3):
        run(collect(both, make_call(), Tally()))
    clock.now_s = 10.0
    a.script = [(0, failed("invalid_request", is_retryable=False)), (1, None)]
    with pytest.raises(UpstreamError):
        run(collect(both, make_call(), Tally()))
    assert run(collect(both, make_call(), Tally()))[0].text == "a"


def test_where_all_are_open_all_are_tried() -> None:
    a, b, both, _ = pair([(0, failed())], [(0, failed())])
    for _ in range(5):
        with pytest.raises(UpstreamError):
            run(collect(both, make_call(), Tally()))
    assert (len(a.calls), len(b.calls)) == (5, 5)


def test_closing_closes_the_member() -> None:
    a, _, both, _ = pair([(5, None)], [(1, None)])

    async def leave() -> None:
        chunks = both.stream(make_call(), Tally())
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]

    run(leave())
    assert a.num_open == 0


def test_max_usage_is_the_largest_of_all() -> None:
    a, refuses = Scripted("long name", []), Scripted("refuses", [])
    both = Fallback("both", [(a, "x"), (refuses, "y"), (Scripted("b", []), "model")])
    assert both.max_usage(make_call()) == Usage(9, 0, 5)
    with pytest.raises(UpstreamError):
        Fallback("none", [(refuses, "y")]).max_usage(make_call())

"""Events of a stream: few, in order, the first at once, nothing kept back for longer than the interval."""

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.server.api import Ending
from farthing.server.chat import Chat
from farthing.server.stream import BREATHE_EVERY, MAX_PENDING_BYTES, EventStream, joined
from farthing.upstreams import Chunk, Tally, TokenLogprob, ToolDelta, UpstreamError

PIECES = st.one_of(
    st.builds(Chunk, st.text("ab", max_size=2), st.integers(0, 2)),
    st.builds(lambda index, text: Chunk("", index, reasoning=text), st.integers(0, 2), st.text("rs", max_size=2)),
    st.builds(lambda index: Chunk("t", index, logprobs=(TokenLogprob("t", b"t", -1.0),)), st.integers(0, 2)),
    st.builds(lambda index: Chunk("", index, tool_calls=(ToolDelta(0, arguments="x"),)), st.integers(0, 2)),
    st.builds(lambda index: Chunk("", index, raw={"index": index}), st.integers(0, 2)),
)


@given(st.lists(PIECES, max_size=30))
def test_joining_keeps_the_answer(chunks):
    def told(pieces):
        """Per choice what is said, in its order, however it is cut."""
        said: dict[int, list[object]] = {}
        for piece in pieces:
            line = said.setdefault(piece.index, [])
            line += [("reasoning", letter) for letter in piece.reasoning]
            line += [("text", letter) for letter in piece.text]
            line += [*piece.logprobs, *piece.tool_calls, *([piece.raw] if piece.raw else [])]
        logprobs = {index: [e for e in line if isinstance(e, TokenLogprob)] for index, line in said.items()}
        return logprobs, {index: [e for e in line if e not in logprobs[index]] for index, line in said.items()}

    fewer = joined(chunks)
    assert told(fewer) == told(chunks)
    assert [piece.raw for piece in fewer if piece.raw] == [piece.raw for piece in chunks if piece.raw]
    assert len(fewer) <= len(chunks)


def test_neighbours_of_one_choice_become_one():
    chunks = [Chunk("a"), Chunk("x", 1), Chunk("b"), Chunk("", 0, "stop"), Chunk("y", 1)]
    assert joined(chunks) == [Chunk("ab", 0, "stop"), Chunk("xy", 1)]


class Wire:
    """What was sent, and when a first body must have been there."""

    def __init__(self):
        self.bodies = []

    async def send(self, message):
        self.bodies.append(message["body"])

    async def start(self):
        self.bodies.append(b"head")


def stream_of(wire, interval_s):
    asked = Chat().parse({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True})
    return EventStream(wire.send, Chat().renderer(asked, "1", 0), wire.start, lambda _: None, interval_s)


def test_what_comes_within_the_interval_is_one_event():
    async def run():
        wire = Wire()
        stream = stream_of(wire, 3600.0)

        async def pieces():
            for letter in "abcdef":
                yield Chunk(letter)
            assert len(wire.bodies) == 2  # head and the first piece, which nobody keeps waiting

        await stream.run(pieces(), Tally())
        await stream.finish(Ending([], Tally()))
        return wire.bodies

    head, first, rest = asyncio.run(run())
    assert head == b"head"
    assert b'"content":"a"' in first
    assert b'"content":"bcdef"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")


def test_a_piece_is_not_kept_for_the_next_one():
    async def run():
        wire = Wire()
        stream = stream_of(wire, 0.01)
        is_sent = asyncio.Event()

        async def pieces():
            yield Chunk("a")
            yield Chunk("b")
            for _ in range(1000):  # b leaves though nothing comes after it
                if len(wire.bodies) == 3:
                    is_sent.set()
                    break
                await asyncio.sleep(0.005)
            yield Chunk("c")

        await stream.run(pieces(), Tally())
        await stream.finish(Ending([], Tally()))
        assert is_sent.is_set()
        return b"".join(wire.bodies)

    data = asyncio.run(run())
    assert [data.count(b'"content":"%c"' % letter) for letter in b"abc"] == [1, 1, 1]


@pytest.mark.parametrize("interval_s", [0.0, 0.001, 3600.0])
def test_a_failure_comes_after_what_was_said(interval_s):
    async def run():
        wire = Wire()
        stream = stream_of(wire, interval_s)

        async def pieces():
            yield Chunk("a")
            yield Chunk("b")

        await stream.run(pieces(), Tally())
        await stream.fail(UpstreamError("gone", status=502, code="gone"))
        return b"".join(wire.bodies)

    data = asyncio.run(run())
    assert data.index(b'"a"') < data.index(b'"b"') < data.index(b'"error"')
    assert b"[DONE]" not in data


def test_interval_zero_sends_each_alone():
    async def run():
        wire = Wire()
        stream = stream_of(wire, 0.0)

        async def pieces():
            for letter in "abc":
                yield Chunk(letter)

        await stream.run(pieces(), Tally())
        await stream.finish(Ending([], Tally()))
        return wire.bodies

    assert len(asyncio.run(run())) == 5


@pytest.mark.parametrize("interval_s", [0.0, 0.001, 3600.0])
def test_a_client_that_does_not_read_is_not_written_for(interval_s):
    """The upstream is asked for no more than a bound, and goes on where the client does."""

    class Slow(Wire):
        def __init__(self):
            super().__init__()
            self.reads = asyncio.Event()

        async def send(self, message):
            await super().send(message)
            if len(self.bodies) > 2:
                await self.reads.wait()

    async def run():
        wire, num_asked = Slow(), 0
        stream = stream_of(wire, interval_s)

        async def pieces():
            nonlocal num_asked
            for number in range(1000):
                num_asked += 1
                yield Chunk(f"<{number}>" + "x" * 1000)

        task = asyncio.create_task(stream.run(pieces(), Tally()))
        most = -1
        while most < num_asked or num_asked < 2:
            most = num_asked
            await asyncio.sleep(0.02)
        assert num_asked * 1000 < 2 * MAX_PENDING_BYTES + 2000
        assert not task.done()
        wire.reads.set()
        await task
        await stream.finish(Ending([], Tally()))
        return b"".join(wire.bodies)

    data = asyncio.run(run())
    assert [int(number) for number in re.findall(rb"<(\d+)>", data)] == list(range(1000))
    assert data.endswith(b"data: [DONE]\n\n")


def test_an_upstream_that_never_waits_leaves_the_loop_to_others():
    async def run():
        wire, num_turns = Wire(), 0
        stream = stream_of(wire, 3600.0)

        async def pieces():
            for _ in range(50 * BREATHE_EVERY):
                yield Chunk("x")

        async def other():
            nonlocal num_turns
            while True:
                num_turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await stream.run(pieces(), Tally())
        task.cancel()
        await stream.finish(Ending([], Tally()))
        return num_turns

    assert asyncio.run(run()) >= 50

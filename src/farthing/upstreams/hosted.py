"""What the hosted kinds have in common: running one answer, and keeping its tally.

A Reader turns one wire's events, or its whole answers, into Chunks and notes usage and model as it goes.

Usage is the provider's where the answer came to its end with one. Where it did not (the client left, the connection
broke, an old server), what was reported so far stands for the input and the output is estimated from the text that
came; usage_source says so. A refusal used nothing, nor does an answer that was none. A request that timed out may have
been worked on: its input counts.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from farthing.economics.usage import Usage
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.estimate import estimate_usage
from farthing.upstreams.http import Http
from farthing.upstreams.http_errors import broke_off
from farthing.upstreams.http_reply import Reply
from farthing.upstreams.sse import Event, Events, EventTooLong
from farthing.upstreams.usage_wire import malformed

__all__ = ["Exchange", "Reader", "answer", "client_headers", "served_model"]

MAX_HELD = 64  # chunks without content before the first that has some; then they go out, for they keep a client waiting
MAX_NAME = 200
MAYBE_USED = ("upstream_timeout", "upstream_broke_off")


class Reader(Protocol):
    model: str  # as the provider names it; "" while it has not
    is_complete: bool  # the answer has come to its end
    is_done: bool  # no event can follow

    @property
    def usage(self) -> Usage | None:
        """As reported so far."""
        ...

    def event(self, event: Event) -> list[Chunk]:
        """Raises UpstreamError for a reported error and for nonsense."""
        ...

    def whole(self, body: dict[str, Any]) -> list[Chunk]: ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it goes out, and how its answer is read."""

    name: str
    http: Http
    path: str
    body: bytes
    headers: Mapping[str, str]
    reader: Reader
    is_capped: bool  # its limit of output tokens is the budget's
    is_whole_wanted: bool  # asked for in one piece, in the provider's own wire


def client_headers(call: Call, names: Sequence[str]) -> dict[str, str]:
    """Those of the client's headers that may go along: by name, and short plain ASCII."""
    given = {name: call.headers[name] for name in names if name in call.headers}
    return {name: text for name, text in given.items() if text.isascii() and text.isprintable() and len(text) < 2000}


def served_model(name: object) -> str:
    """A provider's word for its model, if it is one that may stand in a ledger."""
    return name if isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() else ""


async def answer(exchange: Exchange, call: Call, tally: Tally) -> AsyncGenerator[Chunk, None]:
    """The chunks of one answer. However it ends, the connection is given back or closed and the tally is final."""
    reader, gate = exchange.reader, _Gate()
    is_used = True
    reply: Reply | None = None
    try:
        reply = await exchange.http.post(exchange.path, exchange.body, exchange.headers, is_stream=call.is_stream)
        tally.headers.update(reply.headers)
        events = Events() if call.is_stream and not reply.is_json else None
        is_end = False
        while not (is_end or reader.is_done):
            items, is_end = await _next(reply, events)
            for item in items:
                for chunk in _read(exchange, item, is_end, tally):
                    tally.is_cut = tally.is_cut or (exchange.is_capped and chunk.finish_reason == "length")
                    for passed in gate.through(chunk):
                        yield passed
            if reader.usage is not None:
                tally.usage, tally.usage_source = reader.usage, "provider"
        if not reader.is_complete:
            raise broke_off(exchange.name)
        for chunk in gate.rest():
            yield chunk
        if not is_end:
            await reply.drain()
    except UpstreamError as error:
        if gate.is_open:
            error.is_retryable = False
        else:
            is_used = bool(reader.usage or reader.model or error.code in MAYBE_USED)
        raise
    finally:
        _settle(call, tally, reader, gate.num_bytes, is_used=is_used)
        if reply is not None:
            await reply.close()


class _Gate:
    """Holds chunks back until one has content: an error before that can still be answered by another upstream. Counts
    the text that came."""

    def __init__(self) -> None:
        self.is_open = False  # something went out
        self.num_bytes = 0
        self._held: list[Chunk] = []

    def through(self, chunk: Chunk) -> Sequence[Chunk]:
        """What may go out now."""
        self.num_bytes += _num_bytes(chunk)
        if self.is_open:
            return (chunk,)
        self._held.append(chunk)
        has_content = chunk.text or chunk.tool_calls or chunk.reasoning or chunk.finish_reason
        return self.rest() if has_content or len(self._held) > MAX_HELD else ()

    def rest(self) -> Sequence[Chunk]:
        going, self._held = self._held, []
        self.is_open = self.is_open or bool(going)
        return going


async def _next(reply: Reply, events: Events | None) -> tuple[list[Any], bool]:
    """(the events of the next bytes, or the whole answer; whether that is the end). Raises UpstreamError."""
    if events is None:
        return [await reply.json()], True
    piece = await reply.piece()
    try:
        return (events.finish(), True) if piece is None else (events.feed(piece), False)
    except EventTooLong as error:
        raise malformed("an event without an end") from error


def _read(exchange: Exchange, item: Any, is_end: bool, tally: Tally) -> list[Chunk]:
    reader = exchange.reader
    if isinstance(item, Event):
        if reader.is_done:
            return []
        try:
            return reader.event(item)
        except UpstreamError as error:
            if is_end and error.code == "upstream_malformed":  # the half of an event
                raise broke_off(exchange.name) from error
            raise
    if not isinstance(item, dict):
        raise malformed("no JSON object")
    chunks = reader.whole(item)
    reader.is_complete = True
    tally.whole = item if exchange.is_whole_wanted else None
    return chunks


def _settle(call: Call, tally: Tally, reader: Reader, num_bytes: int, *, is_used: bool) -> None:
    tally.model = reader.model or call.model
    if reader.usage is not None and reader.is_complete:
        tally.usage, tally.usage_source = reader.usage, "provider"
    elif not is_used:
        tally.usage, tally.usage_source = Usage(), "provider"
    else:
        guess = estimate_usage(call, num_bytes)
        if reader.usage is not None:
            guess = replace(reader.usage, output_tokens=max(reader.usage.output_tokens, guess.output_tokens))
        tally.usage, tally.usage_source = guess, "estimated"


def _num_bytes(chunk: Chunk) -> int:
    text = chunk.text
    count = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    if chunk.reasoning:
        count += len(chunk.reasoning.encode("utf-8", "replace"))
    for call in chunk.tool_calls:
        count += len(call.name) + len(call.arguments.encode("utf-8", "replace"))
    return count

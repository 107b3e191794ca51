"""Pieces of an answer as server-sent events, as few of them as the client will not notice.

    chunk      chunk chunk     chunk                          end
      |          |     |         |                             |
    event   .. interval ..  event(all three)     row committed, last events

The first piece leaves at once. What comes within interval_s after an event waits for the rest of that time, one timer
for all of it; pieces of text that waited together leave as one event. Where the client does not read, the upstream is
asked for no more than MAX_PENDING_BYTES.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from farthing.server.api import Ending, Renderer
from farthing.upstreams import Chunk, Tally, UpstreamError

__all__ = ["BREATHE_EVERY", "MAX_PENDING_BYTES", "EventStream", "joined"]

MAX_PENDING_BYTES = 256 << 10  # of one answer, about: what nobody reads is not asked for
BREATHE_EVERY = 64  # pieces: an upstream that never waits must not keep the loop from others
RAW_BYTES = 512  # of a provider's own piece beside its text, about
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class EventStream:
    """The body of one streamed answer. start is called with the first chunk, for the response's head; note with every
    one as it comes."""

    def __init__(
        self,
        send: Send,
        renderer: Renderer,
        start: Callable[[], Awaitable[None]],
        note: Callable[[Chunk], None],
        interval_s: float,
    ) -> None:
        self._send = send
        self._renderer = renderer
        self._start = start
        self._note = note
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._pending: list[Chunk] = []
        self._num_pending_bytes = 0
        self._sent_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._flusher: asyncio.Task[None] | None = None
        self.is_started = False

    async def run(self, chunks: AsyncIterator[Chunk], tally: Tally) -> None:
        """All pieces. The last ones may still be waiting when it returns; finish or fail sends them."""
        num_chunks = 0
        async for chunk in chunks:
            num_chunks += 1
            if num_chunks % BREATHE_EVERY == 0:
                await asyncio.sleep(0)
            self._pending.append(chunk)
            self._num_pending_bytes += _num_bytes(chunk)
            self._note(chunk)
            if not self.is_started:
                self.is_started = True
                await self._start()
                await self._flush(self._renderer.start(tally))
            elif self._num_pending_bytes > MAX_PENDING_BYTES:
                await self._settle()
                await self._flush()
            elif self._timer is None and self._flusher is None:
                due_s = self._sent_at_s + self._interval_s
                if self._loop.time() >= due_s:
                    await self._flush()
                else:
                    self._timer = self._loop.call_at(due_s, self._wake)

    async def finish(self, ending: Ending) -> None:
        await self._settle()
        if not self.is_started:  # an answer without a single piece
            self.is_started = True
            await self._start()
        await self._write(self._take() + self._renderer.end(ending), is_last=True)

    async def fail(self, error: UpstreamError) -> None:
        await self._settle()
        await self._write(self._take() + self._renderer.failed(error), is_last=True)

    def stop(self) -> None:
        """Send no more: nobody listens."""
        if self._timer is not None:
            self._timer.cancel()
        if self._flusher is not None:
            self._flusher.cancel()

    def _wake(self) -> None:
        self._timer = None
        self._flusher = self._loop.create_task(self._flush_later())

    async def _flush_later(self) -> None:
        try:
            await self._flush()
        except OSError:
            return  # the client is gone; who watches it ends the answer
        finally:
            self._flusher = None
        if self._pending and self._timer is None:
            self._timer = self._loop.call_at(self._sent_at_s + self._interval_s, self._wake)

    async def _settle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._flusher is not None:
            await self._flusher
            await self._settle()  # it may have set the timer again

    async def _flush(self, before: bytes = b"") -> None:
        data = before + self._take()
        if data:
            await self._write(data)

    def _take(self) -> bytes:
        chunks = joined(self._pending)
        self._pending, self._num_pending_bytes = [], 0
        return b"".join([self._renderer.chunk(chunk) for chunk in chunks])

    async def _write(self, data: bytes, is_last: bool = False) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._sent_at_s = self._loop.time()


def _num_bytes(chunk: Chunk) -> int:
    """About, as it will be held and sent."""
    size = len(chunk.text) + len(chunk.reasoning) + sum(len(delta.arguments) for delta in chunk.tool_calls)
    return 64 + size + 128 * len(chunk.logprobs) + (0 if chunk.raw is None else RAW_BYTES + size)


def joined(chunks: Sequence[Chunk]) -> Sequence[Chunk]:
    """The same answer in fewer pieces: neighbours of one choice that are text, or reasoning, become one."""
    if len(chunks) < 2:
        return chunks
    runs: list[list[Chunk]] = []
    last: dict[int, tuple[list[Chunk], str]] = {}  # of each choice its run, and what that is; choices have no order
    for chunk in chunks:
        kind = "reasoning" if chunk.reasoning else "text" if chunk.text else ""
        run, run_kind = last.pop(chunk.index, (None, ""))
        if run is None or not _continues(run, run_kind, chunk, kind):
            run, run_kind = [], ""
            runs.append(run)
        run.append(chunk)
        if chunk.raw is not None:
            last.clear()  # a provider's own piece stays where it is
        else:
            last[chunk.index] = run, run_kind or kind
    return [_join(run) if len(run) > 1 else run[0] for run in runs]


def _continues(run: list[Chunk], run_kind: str, chunk: Chunk, kind: str) -> bool:
    before = run[-1]
    is_plain = not (chunk.raw is not None or chunk.tool_calls or before.tool_calls or (chunk.reasoning and chunk.text))
    return is_plain and before.finish_reason is None and (not run_kind or not kind or run_kind == kind)


def _join(run: Sequence[Chunk]) -> Chunk:
    return replace(
        run[-1],
        text="".join([chunk.text for chunk in run]),
        reasoning="".join([chunk.reasoning for chunk in run]),
        logprobs=tuple(entry for chunk in run for entry in chunk.logprobs),
    )

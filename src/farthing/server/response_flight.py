"""One computation that several identical requests share while it runs.

    first request --- starts ---> Flight: a task of its own that reads the upstream --- pieces ---> every listener
    others -----------joins ----^

The task ends early only when the last listener has left: the first one's client may go away while others still read.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from farthing.server.stream import BREATHE_EVERY
from farthing.upstreams import Call, Chunk, Tally, Upstream, UpstreamError

__all__ = ["Flight"]


class Flight:
    """tally is the first request's. on_end is called once, when nobody may join any more: the upstream has ended (its
    row is committed), or is being stopped."""

    def __init__(self, upstream: Upstream, call: Call, tally: Tally, on_end: Callable[["Flight"], None]) -> None:
        self.call = call
        self.tally = tally
        self.pieces: list[Chunk] = []
        self.error: Exception | None = None
        self.is_over = False
        self.is_complete = False  # ended by itself, and well
        self._on_end = on_end
        self._num_listeners = 0
        self._changed = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(upstream))

    async def listen(self) -> AsyncIterator[Chunk]:
        """All pieces from the first one on, as they come. Raises what the computation failed with."""
        self._num_listeners += 1
        num_read = 0
        try:
            while True:
                while num_read < len(self.pieces):
                    num_read += 1
                    yield self.pieces[num_read - 1]
                if self.is_over:
                    break
                await self._changed.wait()
            if self.error is not None:
                raise self.error.with_traceback(None)
        finally:
            self._num_listeners -= 1
            if not self._num_listeners and not self.is_over:
                await self.stop()

    async def stop(self) -> None:
        """Ends the computation, and waits until its row is written. A cancellation meanwhile is raised after that."""
        cancelled: asyncio.CancelledError | None = None
        self.error = UpstreamError("the server stops", status=503, code="server_stopping", is_retryable=True)
        self._finish()  # nobody may join what is being stopped
        self._task.cancel()
        while not self._task.done():
            try:
                await asyncio.wait({self._task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _run(self, upstream: Upstream) -> None:
        pieces: AsyncIterator[Chunk] | None = None
        try:
            pieces = upstream.stream(self.call, self.tally)
            async for piece in pieces:
                self.pieces.append(piece)
                self._wake()
                if len(self.pieces) % BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
            self.is_complete = True
        except Exception as error:
            self.error = error
        finally:
            try:
                if isinstance(pieces, AsyncGenerator):
                    await pieces.aclose()
            finally:
                self._finish()

    def _finish(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._on_end(self)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

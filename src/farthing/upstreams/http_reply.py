"""The body of one answer, read piece by piece as it comes."""

import asyncio

import aiohttp

from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.http_errors import broke_off, timed_out
from farthing.upstreams.usage_wire import malformed, parse_json

__all__ = ["Reply"]

MAX_BODY_BYTES = 64 << 20  # of an answer in one piece
DRAIN_S = 0.25  # how long the end of a finished answer is awaited, so that its connection can be used again
LOOK_S = 0.5
HANDED_ON = ("x-request-id", "request-id", "retry-after")
# A woken reader that finds its connection gone, and no word why, raises RuntimeError.
BROKEN = (aiohttp.ClientError, OSError, RuntimeError)


class Reply:
    """An answer whose body is still to come. `close` gives its connection back, or closes it.

    While a piece is awaited, one timer looks twice a second whether it is overdue, or the connection gone: where
    aiohttp closes one itself, over nonsense in the middle of a body, it wakes nobody. A timer for each piece would
    cost more than to read it.
    """

    def __init__(
        self, name: str, response: aiohttp.ClientResponse, first_s: float, between_s: float, deadline_s: float
    ) -> None:
        self._name = name
        self._response = response
        self._content = response.content
        self._wait_s = first_s
        self._between_s = between_s
        self._deadline_s = deadline_s  # of the loop's clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due_s: float | None = None  # when the piece that is waited for must have come
        headers = response.headers
        self.is_json = headers.get("content-type", "").startswith("application/json")
        self.headers = {key: headers[key] for key in HANDED_ON if key in headers}

    async def piece(self) -> bytes | None:
        """The next bytes, all that are there, None at the end. Raises UpstreamError."""
        now_s = self._loop.time()
        try:
            if now_s >= self._deadline_s:
                raise TimeoutError
            piece = self._content.read_nowait()
            if not piece and not self._content.is_eof():
                self._watch(min(now_s + self._wait_s, self._deadline_s))
                try:
                    piece = await self._content.readany()
                finally:
                    self._due_s = None
        except TimeoutError as error:
            raise timed_out(self._name, f"nothing came for {self._wait_s:g} s, or the whole took too long") from error
        except BROKEN as error:
            piece = self._unread()
            if not piece:
                raise broke_off(self._name) from error
        self._wait_s = self._between_s
        return piece or None

    async def whole(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The body to its end. Raises UpstreamError, also where it is too long."""
        pieces: list[bytes] = []
        num_bytes = 0
        while (piece := await self.piece()) is not None:
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise malformed(f"longer than {max_bytes:,} bytes")
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def json(self) -> object:
        """The body as JSON; closes. Raises UpstreamError (502) where it is none."""
        try:
            return parse_json(await self.whole())
        finally:
            await self.close()

    async def drain(self) -> None:
        """After the last event: awaits the end of the body for a moment."""
        if self._content.at_eof():
            return
        self._deadline_s = min(self._deadline_s, self._loop.time() + DRAIN_S)
        try:
            while await self.piece() is not None:
                pass
        except UpstreamError:
            pass  # the answer is complete; `close` closes the connection

    async def close(self) -> None:
        """At once, also where the request is not yet written to its end: nobody wants the answer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        connection = self._response.connection  # None where it has been given back
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()

    def _watch(self, due_s: float) -> None:
        self._due_s = due_s
        if self._timer is None or self._timer.when() > due_s:
            self._look_at(due_s)

    def _look_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(due_s, self._loop.time() + LOOK_S), self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None or self._content.is_eof():
            return  # nobody waits: it is the client who reads slowly; or the end has just come
        connection = self._response.connection
        if self._loop.time() >= self._due_s:
            self._content.set_exception(TimeoutError())
        elif connection is None or connection.closed:
            self._content.set_exception(aiohttp.ClientPayloadError())
        else:
            self._look_at(self._due_s)

    def _unread(self) -> bytes:
        """What had come before the connection broke: aiohttp raises first. Once it is read, the break shows again."""
        error = self._content.exception()
        if error is None:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]
        piece = self._content.read_nowait()
        self._content.set_exception(error)
        return piece

"""The load generator: raw sockets, connections kept alive, what came is noted with its time and read afterwards.

Open loop: a request is sent when its time has come, on a connection that is idle or a new one, whatever the answers
before it do. So a server that stalls is asked on, and its queue is in the figures.
"""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.http1 import Response

__all__ = ["Answer", "Client", "drive", "events"]

Json = dict[str, Any]


@dataclass(slots=True)
class Answer:
    """Times are of time.perf_counter, which on Linux is the same clock in every process."""

    due_s: float  # when it should have been sent
    sent_s: float = 0.0
    end_s: float | None = None  # the last byte; None where the connection ended before
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[float, bytes]] = field(default_factory=list)  # of the body, when each came

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def is_read(self) -> bool:
        """The client has its answer to the end, and knows it: [DONE] where it is a stream, else the whole body."""
        if self.status != 200:
            return False
        if self.is_stream:
            return b"data: [DONE]" in b"".join(data for _, data in self.pieces[-3:])
        return self.end_s is not None


def events(answer: Answer) -> Iterator[tuple[float, Json]]:
    """A stream's JSON events, each with the time its last byte came."""
    rest = b""
    for at, data in answer.pieces:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                yield at, json.loads(line[len(b"data: ") :])


class _Connection(asyncio.Protocol):
    def __init__(self, client: "Client") -> None:
        self._client = client
        self._transport: Any = None
        self._answer: Answer | None = None
        self._response = Response()
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: bytes, answer: Answer, done: "asyncio.Future[None]") -> None:
        self._answer, self._done, self._response = answer, done, Response()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        answer, at = self._answer, time.perf_counter()
        if answer is None:
            self.close()
            return
        if piece := self._response.feed(data):
            answer.pieces.append((at, piece))
        if not answer.status:
            answer.status, answer.headers = self._response.status, self._response.headers
        if self._response.is_complete:
            answer.end_s, self._answer = at, None
            if answer.headers.get("connection") == "close":
                self.close()
            else:
                self._client.idle.append(self)
            self._finish()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self in self._client.idle:
            self._client.idle.remove(self)
        self._finish()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Client:
    """Connections to one server. `idle` are those that may be used again, the one used last at its end."""

    def __init__(self, port: int) -> None:
        self.idle: list[_Connection] = []
        self._port = port

    async def open(self, num: int) -> None:
        self.idle += [await self._connect() for _ in range(num)]

    async def ask(self, request: bytes, due_s: float | None = None, within_s: float | None = None) -> Answer:
        """To its end, or to that of its connection; after `within_s` the connection is closed, as by a client that
        goes away. A server that cannot be reached gives an answer with status 0."""
        answer = Answer(time.perf_counter() if due_s is None else due_s)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.sent_s = time.perf_counter()
        try:
            connection = self.idle.pop() if self.idle else await self._connect()
        except OSError:
            return answer
        try:
            connection.send(request, answer, done)
            await (done if within_s is None else asyncio.wait_for(done, within_s))
        except TimeoutError:
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        return answer

    def close(self) -> None:
        for connection in [*self.idle]:
            connection.close()
        self.idle.clear()

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port))[1]


async def drive(client: Client, request: Callable[[int], bytes], times_s: Sequence[float]) -> list[Answer]:
    """Sends request(number) at each time and waits for all answers. Without the garbage collector, whose pauses would
    count as the server's."""
    started = time.perf_counter() + 0.01
    tasks: list[asyncio.Task[Answer]] = []
    gc.collect()
    gc.disable()
    try:
        for number, at in enumerate(times_s):
            if (wait_s := started + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            tasks.append(asyncio.create_task(client.ask(request(number), due_s=started + at)))
        return list(await asyncio.gather(*tasks))
    finally:
        gc.enable()

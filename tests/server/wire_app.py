"""A server with one API over an upstream that answers what it was given: just enough to point a real client at."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from farthing.economics.usage import Usage
from farthing.server.api import Api, Ending
from farthing.server.messages import COUNT_PATH, Messages, count_tokens
from farthing.upstreams import Call, Chunk, Receipt, Tally, UpstreamError

USAGE = Usage(input_tokens=30, cache_read_tokens=10, output_tokens=5, cache_write_tokens=4)


@dataclass
class Fake:
    """Answers with `chunks`, then `error` where there is one. `whole` is put into the tally first."""

    chunks: Sequence[Chunk] = ()
    error: UpstreamError | None = None
    whole: dict[str, object] | None = None
    usage: Usage = USAGE
    cost_pico: int | None = 1_234_567
    pause_s: float = 0.0
    name: str = "fake"
    calls: list[Call] = field(default_factory=list)
    num_closed: int = 0  # ended early
    gate: asyncio.Event | None = None  # waits for it before the last chunk
    is_cut: bool = False

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.calls.append(call)
        tally.upstream, tally.provider, tally.model = self.name, "fake", "fake-1"
        tally.usage, tally.usage_source, tally.whole = self.usage, "provider", self.whole
        status = "aborted"
        try:
            for number, chunk in enumerate(self.chunks):
                if self.gate is not None and number == len(self.chunks) - 1:
                    await self.gate.wait()
                await asyncio.sleep(self.pause_s)
                yield chunk
            if self.error is not None:
                status = "error"
                raise self.error
            tally.is_cut = self.is_cut
            status = "ok"
        finally:
            self.num_closed += status == "aborted"
            receipt = Receipt(self.name, "fake-1", tally.usage, "provider", self.cost_pico, 9_000_000, status)
            call.receipts.append(receipt)

    def max_usage(self, call: Call) -> Usage:
        return Usage(input_tokens=42, output_tokens=int(call.body["max_tokens"]))

    async def models(self) -> list[str]:
        return ["fake-1"]

    async def aclose(self) -> None: ...


def wire_app(api: Api, upstream: Fake) -> Starlette:
    def failed(error: UpstreamError) -> Response:
        return Response(orjson.dumps(api.error_body(error, "r1")), error.status, media_type="application/json")

    async def answer(request: Request) -> Response:
        try:
            asked = api.parse(orjson.loads(await request.body()))
        except UpstreamError as error:
            return failed(error)
        call = Call("r1", asked.wire, asked.body, asked.model, asked.is_stream)
        tally, renderer = Tally(), api.renderer(asked, "r1", 1_700_000_000)
        pieces = upstream.stream(call, tally)
        if not asked.is_stream:
            try:
                chunks = [chunk async for chunk in pieces]
            except UpstreamError as error:
                return failed(error)
            whole = renderer.whole(chunks, Ending(call.receipts, tally))
            return Response(orjson.dumps(whole), media_type="application/json")

        async def events() -> AsyncIterator[bytes]:
            is_first = True
            try:
                async for chunk in pieces:
                    yield (renderer.start(tally) if is_first else b"") + renderer.chunk(chunk)
                    is_first = False
            except UpstreamError as error:
                yield renderer.failed(error)
                return
            yield (renderer.start(tally) if is_first else b"") + renderer.end(Ending(call.receipts, tally))

        return StreamingResponse(events(), media_type="text/event-stream")

    async def count(request: Request) -> Response:
        asked = Messages().parse_count(orjson.loads(await request.body()))
        call = Call("r1", asked.wire, asked.body, asked.model)
        return Response(orjson.dumps(await count_tokens(upstream, call)), media_type="application/json")

    routes = [Route(api.path, answer, methods=["POST"]), Route(COUNT_PATH, count, methods=["POST"])]
    return Starlette(routes=routes)


@contextmanager
def served(api: Api, upstream: Fake) -> Iterator[str]:
    """Its address, while it runs in a thread of its own."""
    config = uvicorn.Config(wire_app(api, upstream), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def events_of(stream: bytes) -> list[dict[str, object]]:
    """The events of a stream, each one's name compared with its type."""
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(orjson.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events

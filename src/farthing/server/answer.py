"""From a request's body to an answer's bytes, the same way for every API.

    body -> Asked -> model -> Call -> upstream (metered) -> Chunk … -> Renderer -> bytes

A client that goes away cuts the work off wherever it is; the row is written all the same (ledger.Metered does both).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from farthing.ledger import Key
from farthing.server.answer_headers import EVENT_STREAM, answer_headers
from farthing.server.api import Api, Ending, Renderer
from farthing.server.asking import Asking, failure_of
from farthing.server.body import ClientGone, parse_object
from farthing.server.calls import make_call
from farthing.server.cut import Cut
from farthing.server.reply import send_json
from farthing.server.service import Service
from farthing.server.stream import BREATHE_EVERY, EventStream
from farthing.upstreams import Call, Chunk, Tally, Upstream, UpstreamError

__all__ = ["Answerer"]

FAREWELL_S = 5.0  # for the last event of an answer that broke off, where its client does not read


class Answerer:
    """Answers one API's calls (the handler of its AskEndpoint)."""

    def __init__(self, api: Api, service: Service) -> None:
        self._api = api
        self._service = service

    async def __call__(self, asking: Asking, key: Key | None, raw: bytes) -> None:
        """Raises UpstreamError where nothing was sent yet, ClientGone where nobody is left to be told."""
        asked = self._api.parse(parse_object(raw))
        served = self._service.catalog.find(asked.model, key)
        public = self._service.config.public_system_messages
        call = make_call(asking.id, asked, self._api.endpoint, served.model, key, raw, asking.sent, public)
        await self._service.books.admit(key, project=call.project, tags=call.tags)
        asking.outcome.receipts = call.receipts
        asking.outcome.span = self._service.spans.start(
            call.endpoint, asked.model, call.headers, is_stream=asked.is_stream, request_id=asking.id
        )
        renderer = self._api.renderer(asked, asking.id, int(time.time()))
        if asked.is_stream:
            await self._stream(asking, served.upstream, call, renderer)
        else:
            await self._whole(asking, served.upstream, call, renderer)

    async def _whole(self, asking: Asking, upstream: Upstream, call: Call, renderer: Renderer) -> None:
        tally = asking.outcome.tally
        async with self._cut(asking), self._pieces(asking, upstream, call, tally) as pieces:
            chunks = []
            async for chunk in pieces:
                asking.outcome.note(chunk)
                chunks.append(chunk)
                if len(chunks) % BREATHE_EVERY == 0:
                    await asyncio.sleep(0)
        document = renderer.whole(chunks, Ending(call.receipts, tally))
        asking.outcome.status = 200
        headers = [*asking.headers, *answer_headers(call, tally, is_ended=True, has_cache=self._service.has_cache)]
        await self._deliver(send_json(asking.send, 200, document, headers))

    async def _stream(self, asking: Asking, upstream: Upstream, call: Call, renderer: Renderer) -> None:
        tally = asking.outcome.tally

        async def start() -> None:
            headers = [*EVENT_STREAM, *asking.headers, *answer_headers(call, tally, is_ended=False)]
            await asking.send({"type": "http.response.start", "status": 200, "headers": headers})

        interval_s = self._service.config.stream_interval_s
        stream = EventStream(asking.send, renderer, start, asking.outcome.note, interval_s)
        try:
            async with self._cut(asking), self._pieces(asking, upstream, call, tally) as pieces:
                await stream.run(pieces, tally)
            asking.outcome.status = 200
            await self._deliver(stream.finish(Ending(call.receipts, tally)))
        except (ClientGone, asyncio.CancelledError):
            stream.stop()
            raise
        except Exception as error:
            if not stream.is_started:
                raise
            failure = failure_of(error, asking.id)
            asking.outcome.failed(failure)
            await self._farewell(stream, failure)

    @asynccontextmanager
    async def _pieces(
        self, asking: Asking, upstream: Upstream, call: Call, tally: Tally
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        """The answer's pieces; closed at the end of the block, so that the upstream stops and the row is written."""
        started_s = time.perf_counter()
        pieces = upstream.stream(call, tally)
        try:
            yield pieces
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
            asking.outcome.upstream_s = time.perf_counter() - started_s

    async def _deliver(self, sending: Awaitable[None]) -> None:
        """The rest of an answer that is computed. A client that does not read has as long for it as the answer had, and
        then no place any more. Raises ClientGone."""
        try:
            async with asyncio.timeout(self._service.config.request_timeout_s):
                await sending
        except TimeoutError:
            raise ClientGone from None

    async def _farewell(self, stream: EventStream, error: UpstreamError) -> None:
        try:
            async with asyncio.timeout(FAREWELL_S):
                await stream.fail(error)
        except (TimeoutError, OSError):
            stream.stop()

    def _cut(self, asking: Asking) -> Cut:
        """Around the work: ends it when the client leaves, when its time is up, when the server stops."""
        seconds = self._service.config.request_timeout_s
        message = f"the answer took longer than {seconds:g} s"
        cut = Cut(asking.receive, seconds, UpstreamError(message, status=504, code="request_timeout"))
        asking.place.cut = cut
        return cut

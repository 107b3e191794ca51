"""One connection pool to one provider: opening answers, with time-outs and retries, and reading their bytes.

    open ── connect ── headers ──────── first piece ── piece ── piece … end
         └ connect_timeout_s ┘
         └──────── first_byte_timeout_s ───────────┘
                                                   └ chunk_timeout_s ┘
         └────────────────────── timeout_s, retries included ─────────────┘

A request is sent again only while nothing of its answer has come, and only after what is safe: connection refused or
reset, 408, 429, 500, 502, 503, 504, 529. A time-out is not: the provider may be at work on it, and bill it.
"""

import asyncio
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp
import yarl

from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.http_errors import broke_off, is_repeatable, refusal, timed_out, unreachable
from farthing.upstreams.http_reply import Reply
from farthing.upstreams.http_session import IDLE_S, UnknownProxy, new_session

__all__ = ["Endpoint", "Http"]

MAX_ERROR_BYTES = 64 << 10
MAX_WAIT_S = 20.0  # a longer Retry-After is the client's, or the next upstream's
MAX_BYTES_AT_ONCE = 1 << 20  # of a request's body; a longer one is written in pieces, other requests between them
OWN_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "farthing"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    base_url: str  # without a slash at its end
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # the key is among them
    secret: str | None = field(default=None, repr=False)
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 300.0
    chunk_timeout_s: float = 120.0
    timeout_s: float = 900.0
    retries: int = 2
    backoff_s: float = 0.25


@dataclass(frozen=True, slots=True)
class _Failure:
    error: UpstreamError
    is_repeatable: bool


class Http:
    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = name
        self._endpoint = endpoint
        self._headers = {**OWN_HEADERS, **endpoint.headers}
        self._random = random.Random()
        self._urls: dict[str, yarl.URL] = {}  # by path, a few
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_head_s = -IDLE_S  # when an answer last began, of the loop's clock

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, is_stream: bool) -> Reply:
        """An answer with status 200, after the retries that are allowed. One that comes in one piece may take
        timeout_s to its first byte. Raises UpstreamError."""
        headers = {**self._headers, "content-type": "application/json", **headers}
        return await self._open("POST", path, body, headers, is_stream=is_stream)

    async def get_json(self, path: str) -> object:
        reply = await self._open("GET", path, None, self._headers, is_stream=True)
        return await reply.json()

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, is_stream: bool
    ) -> Reply:
        endpoint = self._endpoint
        first_s = endpoint.first_byte_timeout_s if is_stream else endpoint.timeout_s
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + endpoint.timeout_s
        attempt = 0
        while True:
            reply = await self._once(method, path, body, headers, first_s, deadline_s)
            if isinstance(reply, Reply):
                return reply
            wait_s = reply.error.retry_after_s
            if wait_s is None:
                wait_s = endpoint.backoff_s * 2**attempt * self._random.uniform(0.5, 1.0)
            is_too_late = wait_s > MAX_WAIT_S or loop.time() + wait_s >= deadline_s
            if not reply.is_repeatable or attempt >= endpoint.retries or is_too_late:
                raise reply.error
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        first_s: float,
        deadline_s: float,
    ) -> Reply | _Failure:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(loop.time() + first_s, deadline_s)):
                response = await self._request(method, path, body, headers)
        except aiohttp.ConnectionTimeoutError:
            return _Failure(unreachable(self._name, "no connection in time"), True)
        except TimeoutError:
            return _Failure(timed_out(self._name, "no answer"), False)
        except aiohttp.ClientConnectorError:
            return _Failure(unreachable(self._name, "connection refused, or no such host"), True)
        except aiohttp.ClientHttpProxyError:
            return _Failure(unreachable(self._name, "the proxy refused"), True)
        except (aiohttp.ClientConnectionError, aiohttp.ClientResponseError):
            return _Failure(broke_off(self._name), True)
        except UnknownProxy as unknown:
            return _Failure(unreachable(self._name, str(unknown)), False)
        except (aiohttp.ClientError, ValueError):
            return _Failure(unreachable(self._name, "the connection failed"), False)
        self._last_head_s = loop.time()
        reply = Reply(self._name, response, first_s, self._endpoint.chunk_timeout_s, deadline_s)
        if response.status == 200:
            return reply
        try:
            content = await reply.whole(MAX_ERROR_BYTES)
        except UpstreamError:
            content = b""
        finally:
            await reply.close()
        error = refusal(self._name, response.status, response.headers, content, self._endpoint.secret)
        return _Failure(error, is_repeatable(response.status, response.headers, error.code))

    async def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """The answer's head. A connection that lay idle may have been closed by the provider while the request was on
        its way; that is no failure of the provider's, so another one is tried at once."""
        session = await self._open_session()
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = yarl.URL(self._endpoint.base_url + path)
        is_idle_likely = asyncio.get_running_loop().time() - self._last_head_s < IDLE_S
        try:
            return await session.request(method, url, data=_data(body), headers=headers, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
            raise
        except aiohttp.ClientConnectionError:
            if not is_idle_likely:
                raise
        return await session.request(method, url, data=_data(body), headers=headers, allow_redirects=False)

    async def _open_session(self) -> aiohttp.ClientSession:
        """Connections belong to the loop they were made in."""
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is loop:
            return self._session
        old, self._loop = self._session, loop
        self._session = new_session(yarl.URL(self._endpoint.base_url), self._endpoint.connect_timeout_s)
        session = self._session
        if old is not None:
            await old.close()
        return session


def _data(body: bytes | None) -> bytes | io.BytesIO | None:
    return io.BytesIO(body) if body is not None and len(body) > MAX_BYTES_AT_ONCE else body

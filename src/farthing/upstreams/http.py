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
import http.cookiejar
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx2

from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.http_errors import broke_off, is_repeatable, refusal, timed_out, unreachable
from farthing.upstreams.usage_wire import malformed, parse_json

__all__ = ["Endpoint", "Http", "Reply"]

MAX_BODY_BYTES = 64 << 20  # of an answer in one piece
MAX_ERROR_BYTES = 64 << 10
MAX_CONNECTIONS = 4096
MAX_IDLE_CONNECTIONS = 256
IDLE_S = 30.0  # a provider that closes sooner costs one retry
MAX_WAIT_S = 20.0  # a longer Retry-After is the client's, or the next upstream's
DRAIN_S = 0.25  # how long the end of a finished answer is awaited, so that its connection can be used again
HANDED_ON = ("x-request-id", "request-id", "retry-after")


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


class Reply:
    """An answer with status 200 whose body is still to come. `close` gives its connection back, or closes it."""

    def __init__(
        self, name: str, response: httpx2.Response, first_s: float, between_s: float, deadline_s: float
    ) -> None:
        self._name = name
        self._response = response
        self._wait_s = first_s
        self._between_s = between_s
        self._deadline_s = deadline_s  # of the loop's clock
        encoding = response.headers.get("content-encoding", "identity")
        self._pieces = response.aiter_raw() if encoding == "identity" else response.aiter_bytes()
        self.is_json = response.headers.get("content-type", "").startswith("application/json")
        self.headers = {key: response.headers[key] for key in HANDED_ON if key in response.headers}

    async def piece(self) -> bytes | None:
        """The next bytes, None at the end. Raises UpstreamError."""
        until_s = min(asyncio.get_running_loop().time() + self._wait_s, self._deadline_s)
        try:
            async with asyncio.timeout_at(until_s):
                piece: bytes | None = await anext(self._pieces, None)
        except TimeoutError as error:
            raise timed_out(self._name, f"nothing came for {self._wait_s:g} s, or the whole took too long") from error
        except httpx2.HTTPError as error:
            raise broke_off(self._name) from error
        self._wait_s = self._between_s
        return piece

    async def whole(self, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The body to its end. Raises UpstreamError, also where it is too long."""
        pieces: list[bytes] = []
        num_bytes = 0
        while (piece := await self.piece()) is not None:
            num_bytes += len(piece)
            if num_bytes > max_bytes:
                raise malformed(f"longer than {max_bytes:,} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    async def json(self) -> object:
        """The body as JSON; closes. Raises UpstreamError (502) where it is none."""
        try:
            return parse_json(await self.whole())
        finally:
            await self.close()

    async def drain(self) -> None:
        """After the last event: awaits the end of the body for a moment."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while await anext(self._pieces, None) is not None:
                    pass
        except (TimeoutError, httpx2.HTTPError):
            pass  # the answer is complete; `close` closes the connection

    async def close(self) -> None:
        await self._response.aclose()


class Http:
    def __init__(self, name: str, endpoint: Endpoint) -> None:
        self._name = name
        self._endpoint = endpoint
        self._random = random.Random()
        self._client: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, is_stream: bool) -> Reply:
        """An answer with status 200, after the retries that are allowed. One that comes in one piece may take
        timeout_s to its first byte. Raises UpstreamError."""
        headers = {"content-type": "application/json", **headers}
        return await self._open("POST", path, body, headers, is_stream=is_stream)

    async def get_json(self, path: str) -> object:
        reply = await self._open("GET", path, None, {}, is_stream=True)
        return await reply.json()

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

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
        client = self._open_client()
        request = client.build_request(method, self._endpoint.base_url + path, content=body, headers=headers)
        until_s = min(asyncio.get_running_loop().time() + first_s, deadline_s)
        try:
            async with asyncio.timeout_at(until_s):
                response = await client.send(request, stream=True)
        except TimeoutError:
            return _Failure(timed_out(self._name, "no answer"), False)
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout):
            return _Failure(unreachable(self._name, "no connection in time"), True)
        except httpx2.ConnectError:
            return _Failure(unreachable(self._name, "connection refused, or no such host"), True)
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):
            return _Failure(broke_off(self._name), True)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return _Failure(unreachable(self._name, "the connection failed"), False)
        reply = Reply(self._name, response, first_s, self._endpoint.chunk_timeout_s, deadline_s)
        if response.status_code == 200:
            return reply
        try:
            content = await reply.whole(MAX_ERROR_BYTES)
        except UpstreamError:
            content = b""
        finally:
            await reply.close()
        error = refusal(self._name, response.status_code, response.headers, content, self._endpoint.secret)
        return _Failure(error, is_repeatable(response.status_code, response.headers, error.code))

    def _open_client(self) -> httpx2.AsyncClient:
        """Connections belong to the loop they were made in. No cookies: one client's would reach all others."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._loop = loop
            url = httpx2.URL(self._endpoint.base_url)
            self._client = httpx2.AsyncClient(
                headers={"accept-encoding": "identity", "user-agent": "farthing", **self._endpoint.headers},
                timeout=httpx2.Timeout(None, connect=self._endpoint.connect_timeout_s, pool=30.0),
                limits=httpx2.Limits(
                    max_connections=MAX_CONNECTIONS,
                    max_keepalive_connections=MAX_IDLE_CONNECTIONS,
                    keepalive_expiry=IDLE_S,
                ),
                cookies=http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[])),
                verify=url.scheme == "https",  # without TLS no certificates are read (16 ms)
                trust_env=url.host not in ("localhost", "127.0.0.1", "::1"),  # a proxy does not reach this machine
                follow_redirects=False,
            )
        return self._client

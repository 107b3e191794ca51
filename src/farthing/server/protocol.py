"""uvicorn's HTTP protocol with bounds on the head of a request: its bytes, its number of headers, its time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from farthing.server.config import ServerConfig

__all__ = ["BoundedProtocol"]


class HeadTooLarge(Exception):
    """Raised within the parser, which turns it into status 400 and closes."""


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, limits: ServerConfig, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._is_head = True  # a head is awaited or being read, rather than a body
        self._num_heads = 0  # that were complete
        self._num_head_bytes = 0  # of an unfinished head, by the pieces it came in
        self._num_header_bytes = 0  # of its parts that are complete
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        num_heads = self._num_heads
        was_head = self._is_head
        super().data_received(data)
        is_unfinished = was_head and self._is_head and num_heads == self._num_heads
        if is_unfinished and not self.transport.is_closing():
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self._limits.max_header_bytes:
                self.send_400_response("Request head too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._num_header_bytes = 0
        if self._head_timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= self._limits.max_headers:
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_head = False
        self._num_heads += 1
        self._num_head_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_head = True
        super().on_message_complete()

    def _count(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > self._limits.max_header_bytes:
            raise HeadTooLarge

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

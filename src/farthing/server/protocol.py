"""uvicorn's HTTP protocol with bounds on the head of a request: its bytes, its number of headers, its time."""

import asyncio
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from farthing.server.config import ServerConfig
from farthing.server.errors import bad_request, openai_error_body
from farthing.server.reply import dump
from farthing.upstreams import UpstreamError

__all__ = ["BoundedProtocol"]


class HeadTooLarge(Exception):
    """Raised within the parser, which then gives up; the answer is 431."""


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, limits: ServerConfig, **given: Any) -> None:
        super().__init__(**given)
        self._limits = limits
        self._is_head = True  # a head is awaited or being read, rather than a body
        self._num_heads = 0  # that were complete
        self._num_head_bytes = 0  # of an unfinished head, by the pieces it came in
        self._num_header_bytes = 0  # of its parts that are complete
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest = b""  # what the parser is being fed
        self._is_upgrade = False  # the head that was read asks for another protocol
        self._is_too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        num_heads = self._num_heads
        was_head = self._is_head
        self._rest = data
        super().data_received(data)
        is_unfinished = was_head and self._is_head and num_heads == self._num_heads
        if is_unfinished and not self.transport.is_closing():
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self._limits.max_header_bytes:
                self._is_too_large = True
                self.send_400_response("")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words help nobody
        """What cannot be read, told in the form that clients of the APIs read; the connection ends."""
        limits = self._limits
        if self._is_too_large:
            message = (
                f"the head of the request is above {limits.max_header_bytes:,} bytes or {limits.max_headers} headers"
            )
            status, reason = 431, b"Request Header Fields Too Large"
            error = UpstreamError(message, status=status, code="head_too_large")
        else:
            status, reason = 400, b"Bad Request"
            error = bad_request("this is no HTTP/1.1 request that can be read", code="invalid_http")
        data = dump(openai_error_body(error))
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, reason, len(data)) + data)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """A client that offers to go over to HTTP/2 (Java's does with every request) or to a web socket is answered
        in HTTP/1.1, as if it had not. The parser takes what follows such a head for the other protocol, so a new one
        reads the head without the offer, and then the body."""
        offer = sys.exception()
        if not self._is_upgrade or not isinstance(offer, httptools.HttpParserUpgrade):
            super()._unsupported_upgrade_warning()
            return
        self._is_upgrade = False
        rest, self._rest = self._rest[offer.args[0] :], b""
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

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
            self._is_too_large = True
            raise HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_upgrade = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._is_upgrade:
            return  # it is read again
        self._is_head = False
        self._num_heads += 1
        self._num_head_bytes = 0
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self._is_head = True
        super().on_message_complete()

    def _count(self, num_bytes: int) -> None:
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > self._limits.max_header_bytes:
            self._is_too_large = True
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

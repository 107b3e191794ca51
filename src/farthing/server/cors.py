"""Pages of other origins that may call this server from a browser (CORS): those that the configuration names.

    OPTIONS, what the browser asks first -> 204, which methods and headers it may send
    any other request                    -> the answer, with the leave to read it and our headers

Nothing here is a check: a browser asks, other clients do not. Cookies are never allowed, for none are used.
"""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from farthing.server.reply import Headers
from farthing.server.stream import Send

__all__ = ["Cors"]

METHODS = b"GET, POST"
MAX_AGE_S = 600
NAMES = re.compile(rb"[a-zA-Z0-9!#$%&'*+.^_`|~-]+(?:\s*,\s*[a-zA-Z0-9!#$%&'*+.^_`|~-]+)*")
EXPOSED = (
    *("x-farthing-request-id", "x-farthing-model", "x-farthing-upstream", "x-farthing-usage-source"),
    *("x-farthing-cache", "x-farthing-cost-usd", "x-farthing-baseline-cost-usd", "x-litellm-response-cost"),
    *("x-request-id", "request-id", "retry-after"),
)


class Cors:
    """allowed: origins as a browser says them ("https://chat.example"), or "*" for all."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(origin.encode() for origin in allowed)
        self._is_any = b"*" in self._allowed
        self._exposed = ", ".join(EXPOSED).encode()

    def allows(self, origin: bytes | None) -> bool:
        return origin is not None and (self._is_any or origin in self._allowed)

    def is_preflight(self, scope: Mapping[str, Any], sent: Mapping[bytes, bytes]) -> bool:
        return scope["method"] == "OPTIONS" and b"access-control-request-method" in sent

    async def answer_preflight(self, send: Send, origin: bytes, sent: Mapping[bytes, bytes]) -> None:
        """Whatever headers are asked for are allowed: clients' libraries send many of their own."""
        wanted = sent.get(b"access-control-request-headers", b"")
        headers = [*self._leave(origin), (b"access-control-allow-methods", METHODS)]
        if NAMES.fullmatch(wanted):
            headers.append((b"access-control-allow-headers", wanted))
        headers.append((b"access-control-max-age", str(MAX_AGE_S).encode()))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def allowing(self, send: Send, origin: bytes) -> Send:
        """The same send, with the headers by which the browser lets the page read the answer."""
        more = [*self._leave(origin), (b"access-control-expose-headers", self._exposed)]

        async def send_with(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        return send_with

    def _leave(self, origin: bytes) -> Headers:
        return [(b"access-control-allow-origin", b"*" if self._is_any else origin), (b"vary", b"origin")]

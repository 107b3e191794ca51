"""What every request passes first: is it meant for this server?

A page in a browser can make its own host name point at 127.0.0.1 and then talk to servers there (DNS rebinding), or
send a form to them. On loopback nobody has to have a key, so the names in Host and Origin are what tells it apart.
Pages that are welcome are named in allowed_origins (see cors.py).
"""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from farthing.server.body import Receive
from farthing.server.config import ServerConfig, is_loopback
from farthing.server.cors import Cors
from farthing.server.errors import openai_error_body
from farthing.server.reply import send_error
from farthing.server.stream import Send
from farthing.upstreams import UpstreamError

__all__ = ["Door"]

App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Door:
    """Wraps the whole application."""

    def __init__(self, app: App, config: ServerConfig) -> None:
        self._app = app
        names = {name.lower().strip("[]") for name in (*LOCAL_NAMES, config.host, *config.allowed_hosts)}
        # Reachable by others, a server is called by names that it does not know, and asks for a key.
        self._names = frozenset(names) if is_loopback(config.host) or config.allowed_hosts else None
        self._cors = Cors(config.allowed_origins) if config.allowed_origins else None

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._names is not None:
            for name, value in scope["headers"]:
                if name in (b"host", b"origin") and not self._is_ours(name, value):
                    await self._refuse(send, name.decode(), value)
                    return
        if scope["type"] == "http" and self._cors is not None:
            sent = dict(scope["headers"])
            origin = sent.get(b"origin")
            if origin is not None and self._cors.allows(origin):
                if self._cors.is_preflight(scope, sent):
                    await self._cors.answer_preflight(send, origin, sent)
                    return
                send = self._cors.allowing(send, origin)
        await self._app(scope, receive, send)

    def _is_ours(self, name: bytes, value: bytes) -> bool:
        assert self._names is not None
        if name == b"origin" and self._cors is not None and self._cors.allows(value):
            return True
        text = value.decode("latin-1")
        try:
            host = urlsplit(text if name == b"origin" else "//" + text).hostname
        except ValueError:
            return False
        return host in self._names

    async def _refuse(self, send: Send, name: str, value: bytes) -> None:
        shown = value[:100].decode("latin-1")
        setting = "it to allowed_origins" if name == "origin" else "its name to allowed_hosts"
        message = f"the {name} {shown!r} is not this server's; add {setting} under [server] if it may call it"
        error = UpstreamError(message, status=403, code="host_not_allowed")
        await send_error(send, error, openai_error_body(error), [])

"""Writes whole responses: JSON and errors."""

from collections.abc import Iterable
from typing import Any

import orjson

from farthing.server.errors import error_headers
from farthing.server.stream import Send
from farthing.upstreams import UpstreamError

__all__ = ["Headers", "dump", "send_bytes", "send_error", "send_json"]

Headers = list[tuple[bytes, bytes]]


def dump(document: Any) -> bytes:
    """JSON; half a surrogate pair, which is no character, becomes U+FFFD."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        return orjson.dumps(_mended(document))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in value]
    return value


async def send_bytes(
    send: Send, status: int, data: bytes, content_type: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> None:
    lengths = [(b"content-type", content_type), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*lengths, *headers]})
    await send({"type": "http.response.body", "body": data})


async def send_json(send: Send, status: int, document: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send_bytes(send, status, dump(document), b"application/json", headers)


async def send_error(send: Send, error: UpstreamError, body: dict[str, Any], headers: Headers) -> None:
    await send_json(send, error.status, body, [*headers, *error_headers(error)])

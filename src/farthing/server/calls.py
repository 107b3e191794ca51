"""From what a client asked to the Call that an upstream gets. Who asks and what is shared is never the body's word."""

from collections.abc import Mapping, Sequence
from typing import Any

from farthing.ledger import Key
from farthing.server.api import Asked
from farthing.server.auth import project_of, tags_of
from farthing.upstreams import Call

__all__ = ["make_call", "num_public_messages"]

HANDED_ON = (b"anthropic-", b"openai-", b"traceparent", b"tracestate", b"idempotency-key")


def make_call(
    request_id: str,
    asked: Asked,
    endpoint: str,
    model: str,
    key: Key | None,
    raw: bytes,
    headers: Mapping[bytes, bytes],
    public_texts: Sequence[str],
) -> Call:
    """Raises UpstreamError (400, 403) for tags or a project that are not allowed."""
    return Call(
        id=request_id,
        wire=asked.wire,
        body=asked.body,
        model=model,
        is_stream=asked.is_stream,
        salt="" if key is None else key.id,
        num_public_messages=num_public_messages(asked, public_texts) if public_texts else 0,
        headers={
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers.items()
            if name.startswith(HANDED_ON)
        },
        raw=None if asked.is_body_changed else raw,
        endpoint=endpoint,
        asked_model=asked.model,
        key_id=None if key is None else key.id,
        project=project_of(headers, key),
        tags=tags_of(headers),
    )


def num_public_messages(asked: Asked, public_texts: Sequence[str]) -> int:
    """1 where the request begins with a system message whose text the configuration declares public, otherwise 0."""
    first: Any = asked.body.get("system")
    if asked.wire == "chat":
        message = asked.body["messages"][0]
        first = message.get("content") if message.get("role") in ("system", "developer") else None
    return int(isinstance(first, str) and first in public_texts)

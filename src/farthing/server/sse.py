"""Server-sent events, as both OpenAI's responses and Anthropic's messages send them: named, one JSON object each."""

from typing import Any

import orjson

__all__ = ["event"]


def event(data: dict[str, Any]) -> bytes:
    """The event that is named by its own "type"."""
    return b"event: " + data["type"].encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"

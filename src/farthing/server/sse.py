"""Server-sent events, as both OpenAI's responses and Anthropic's messages send them: named, one JSON object each."""

from typing import Any

import orjson

__all__ = ["clean", "event"]


def event(data: dict[str, Any]) -> bytes:
    """The event that is named by its own "type"."""
    return b"event: %s\ndata: %s\n\n" % (data["type"].encode(), orjson.dumps(data))


def clean(text: str) -> str:
    """Half a surrogate pair, which a provider's JSON can spell, is no character: it becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

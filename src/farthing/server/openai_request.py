"""What chat completions and completions ask alike, checked for every upstream."""

from typing import Any

from farthing.server import fields
from farthing.server.api import Asked
from farthing.upstreams import Wire

__all__ = ["check_common"]

MAX_CHOICES = 128


def check_common(wire: Wire, body: dict[str, Any]) -> Asked:
    """Raises UpstreamError (400)."""
    model = fields.text(body, "model")
    is_stream = fields.boolean(body, "stream")
    fields.integer(body, "n", 1, MAX_CHOICES)
    fields.integer(body, "max_tokens", 1)
    options = body.get("stream_options")
    if options is not None:
        if not isinstance(options, dict):
            raise fields.invalid("stream_options is not an object", "stream_options")
        if not is_stream:
            raise fields.invalid("stream_options is allowed only where stream is true", "stream_options")
        fields.boolean(options, "include_usage")
    return Asked(wire, body, model, is_stream)

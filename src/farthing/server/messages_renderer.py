"""Writes answers as Anthropic's API does: a message, or the events that build one.

    message_start  (content_block_start  content_block_delta …  content_block_stop) …  message_delta  message_stop
                    one block for each stretch of text and for each tool call           usage and cost

Where the upstream is Anthropic's own, its events (Chunk.raw) are handed on, and only message_delta waits for the cost.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from farthing.economics.usage import Usage
from farthing.server.answer_cost import costs_usd
from farthing.server.api import Asked, Ending
from farthing.server.sse import clean, event
from farthing.upstreams import Chunk, Tally, ToolDelta, UpstreamError

__all__ = ["MessagesRenderer", "error_object"]

Json = dict[str, Any]
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error_object(error: UpstreamError) -> Json:
    """A provider's own error where it has this API's shape, otherwise ours in it."""
    if error.body is not None and error.body.get("type") == "error" and isinstance(error.body.get("error"), dict):
        return dict(error.body)
    kind = ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


class MessagesRenderer:
    """Which stop sequence ended an answer is known only from Anthropic's own events; elsewhere stop_sequence is null
    and the reason end_turn. Reasoning is shown as thinking where the client asked for thinking."""

    def __init__(self, asked: Asked, answer_id: str) -> None:
        self._model = asked.model
        self._id = answer_id
        self._has_thinking = (asked.body.get("thinking") or {}).get("type") not in (None, "disabled")
        self._tally = Tally()
        self._is_started = False
        self._blocks: list[Json] = []  # as they are so far; a tool's input as text in "input"
        self._open: int | None = None  # the block that is being written
        self._tools: dict[int, int] = {}  # index of a tool call: its block
        self._finish_reason: str | None = None
        self._held: Json | None = None  # Anthropic's own message_delta

    def start(self, tally: Tally) -> bytes:
        """Nothing yet: message_start comes with the first piece, which may bring the provider's own."""
        self._tally = tally
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        return b"".join(map(event, self._raw(chunk.raw) if chunk.raw is not None else self._take(chunk)))

    def end(self, ending: Ending) -> bytes:
        events = [*self._begin(), *self._close()]
        if self._held is not None:
            events.append({**self._held, "usage": _ended_usage(self._held.get("usage"), ending)})
        else:
            delta = {"stop_reason": self._stop_reason(), "stop_sequence": None}
            events.append({"type": "message_delta", "delta": delta, "usage": _ended_usage(None, ending)})
        return b"".join(map(event, [*events, {"type": "message_stop"}]))

    def failed(self, error: UpstreamError) -> bytes:
        return event(error_object(error))

    def whole(self, chunks: Sequence[Chunk], ending: Ending) -> Json:
        if (whole := ending.tally.whole) is not None:
            return {**whole, "model": self._model, "usage": _ended_usage(whole.get("usage"), ending)}
        for chunk in chunks:
            self._take(chunk)
        content = [
            {**block, "input": _tool_input(block["input"])} if block["type"] == "tool_use" else block
            for block in self._blocks
        ]
        message = self._message(_ended_usage(None, ending))
        return {**message, "content": content, "stop_reason": self._stop_reason()}

    def _raw(self, raw: Json) -> list[Json]:
        """The events to hand on for one of Anthropic's own. Which block is open is noted: a stream that a budget cuts
        ends without its last events, and they are ours to write."""
        if raw.get("type") == "message_start":
            self._is_started = True
            return [{**raw, "message": {**(raw.get("message") or {}), "model": self._model}}]
        if raw.get("type") == "message_delta":
            self._held = raw
            return []
        if raw.get("type") == "message_stop":
            return []
        if raw.get("type") == "content_block_start":
            self._open = raw.get("index")
        elif raw.get("type") == "content_block_stop":
            self._open = None
        return [*self._begin(), raw]

    def _take(self, chunk: Chunk) -> list[Json]:
        """The events for a piece, which is added to the blocks."""
        events = self._begin()
        if chunk.reasoning and self._has_thinking:
            events += self._write(
                "thinking", {"thinking": "", "signature": ""}, "thinking_delta", clean(chunk.reasoning)
            )
        if chunk.text:
            events += self._write("text", {"text": ""}, "text_delta", clean(chunk.text))
        for delta in chunk.tool_calls:
            events += self._tool(delta)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        return events

    def _begin(self) -> list[Json]:
        if self._is_started:
            return []
        self._is_started = True
        return [{"type": "message_start", "message": self._message(_usage(self._tally.usage))}]

    def _message(self, usage: Json) -> Json:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _write(self, kind: str, empty: Json, delta: str, text: str) -> list[Json]:
        """Text into the open block where it is of that kind, otherwise into a new one."""
        events = []
        if self._open is None or self._blocks[self._open]["type"] != kind:
            events = self._new({"type": kind, **empty})
        assert self._open is not None
        self._blocks[self._open][kind] += text
        piece = {"type": delta, kind: text}
        return [*events, {"type": "content_block_delta", "index": self._open, "delta": piece}]

    def _tool(self, delta: ToolDelta) -> list[Json]:
        events = []
        if delta.index not in self._tools:
            name = {"id": delta.id or f"toolu_{self._id}_{delta.index}", "name": delta.name}
            events = self._new({"type": "tool_use", **name, "input": ""})
            self._tools[delta.index] = len(self._blocks) - 1
        index = self._tools[delta.index]
        if delta.arguments:
            arguments = clean(delta.arguments)
            self._blocks[index]["input"] += arguments
            piece = {"type": "input_json_delta", "partial_json": arguments}
            events.append({"type": "content_block_delta", "index": index, "delta": piece})
        return events

    def _new(self, block: Json) -> list[Json]:
        events = self._close()
        self._open = len(self._blocks)
        self._blocks.append(block)
        shown = {**block, "input": {}} if block["type"] == "tool_use" else dict(block)
        return [*events, {"type": "content_block_start", "index": self._open, "content_block": shown}]

    def _close(self) -> list[Json]:
        if self._open is None:
            return []
        index, self._open = self._open, None
        return [{"type": "content_block_stop", "index": index}]

    def _stop_reason(self) -> str:
        reason = "tool_calls" if self._tools and self._finish_reason in (None, "stop") else self._finish_reason
        return STOP_REASONS.get(reason or "stop", "end_turn")


def _usage(usage: Usage) -> Json:
    """Anthropic's input_tokens are those that no cache had to do with."""
    return {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }


def _ended_usage(provider: Json | None, ending: Ending) -> Json:
    """Usage with its cost; the provider's own object where there is one. Counts that nobody knows are null, never 0."""
    tally = ending.tally
    usage = provider if isinstance(provider, dict) else _usage(tally.usage)
    if usage is not provider and tally.usage_source == "unavailable":
        usage = dict.fromkeys(usage)
    return {**usage, **costs_usd(ending.receipts), **({"ended_by": "budget"} if tally.is_cut else {})}


def _tool_input(arguments: str) -> Json:
    """The arguments as an object; what is none (cut off at max_tokens, or the model's mistake) is shown as it is."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"unparsed_arguments": arguments}

"""Anthropic's answers, as events or whole, as Chunks."""

from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.call import Chunk, ToolDelta
from farthing.upstreams.convert_fields import dumps
from farthing.upstreams.hosted import served_model
from farthing.upstreams.http_errors import reported
from farthing.upstreams.sse import Event
from farthing.upstreams.usage_wire import AnthropicUsage, malformed, parse_json

__all__ = ["AnthropicReader"]

FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class AnthropicReader:
    """is_raw: the call's wire is messages, so every event goes along as a Chunk; else only those that say something.

    A tool's index counts the tool calls, as OpenAI's does; Anthropic's counts all blocks.
    """

    def __init__(self, name: str, secret: str | None, *, is_raw: bool) -> None:
        self.model = ""
        self.is_complete = False
        self.is_done = False
        self._name = name
        self._secret = secret
        self._is_raw = is_raw
        self._usage = AnthropicUsage()
        self._tools: dict[int, int] = {}  # a block's index: its tool's

    @property
    def usage(self) -> Usage | None:
        return self._usage.usage if self._usage.is_reported else None

    def event(self, event: Event) -> list[Chunk]:
        body = parse_json(event.data)
        if not isinstance(body, dict):
            raise malformed("an event that is no JSON object")
        kind = body.get("type", event.name)
        raw = body if self._is_raw else None
        if kind == "error" or event.name == "error":
            raise reported(self._name, body, self._secret)
        if kind == "content_block_delta":
            chunk = self._delta(_object(body, "delta"), body.get("index"), raw)
        elif kind == "content_block_start":
            chunk = self._start(_object(body, "content_block"), body.get("index"), raw)
        elif kind == "message_delta":
            self._usage.add(body.get("usage"))
            chunk = Chunk(finish_reason=self._finish(_object(body, "delta").get("stop_reason")), raw=raw)
        elif kind == "message_start":
            message = _object(body, "message")
            self.model = served_model(message.get("model"))
            self._usage.add(message.get("usage"))
            chunk = Chunk(raw=raw)
        else:
            self.is_complete = self.is_done = self.is_done or kind == "message_stop"
            chunk = Chunk(raw=raw)
        is_empty = not (chunk.text or chunk.tool_calls or chunk.reasoning or chunk.finish_reason)
        return [] if is_empty and raw is None else [chunk]

    def whole(self, body: dict[str, Any]) -> list[Chunk]:
        if body.get("type") == "error" or body.get("error"):
            raise reported(self._name, body, self._secret)
        self.model = served_model(body.get("model"))
        self._usage.add(body.get("usage"))
        blocks = body.get("content")
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise malformed("content is no list of objects")
        chunks = []
        for at, block in enumerate(blocks):
            chunk = self._start(block, at, None)
            if block.get("type") == "tool_use":
                index = self._tools[at]
                arguments = dumps(_object(block, "input"), "input").decode()
                delta = ToolDelta(index, chunk.tool_calls[0].id, chunk.tool_calls[0].name, arguments)
                chunk = Chunk(tool_calls=(delta,))
            chunks.append(chunk)
        return [*chunks, Chunk(finish_reason=self._finish(body.get("stop_reason")) or "stop")]

    def _start(self, block: dict[str, Any], index: object, raw: dict[str, Any] | None) -> Chunk:
        kind = block.get("type")
        if kind == "tool_use":
            number = self._tools.setdefault(_index(index), len(self._tools))
            return Chunk(tool_calls=(ToolDelta(number, _text(block, "id"), _text(block, "name")),), raw=raw)
        text = _text(block, "text") if kind == "text" else ""
        return Chunk(text, reasoning=_text(block, "thinking") if kind == "thinking" else "", raw=raw)

    def _delta(self, delta: dict[str, Any], index: object, raw: dict[str, Any] | None) -> Chunk:
        kind = delta.get("type")
        if kind == "text_delta":
            return Chunk(_text(delta, "text"), raw=raw)
        if kind == "thinking_delta":
            return Chunk(reasoning=_text(delta, "thinking"), raw=raw)
        if kind == "input_json_delta" and _index(index) in self._tools:  # others are tools of Anthropic's own servers
            arguments = _text(delta, "partial_json")
            return Chunk(tool_calls=(ToolDelta(self._tools[_index(index)], arguments=arguments),), raw=raw)
        return Chunk(raw=raw)

    def _finish(self, reason: object) -> str | None:
        if reason is None:
            return None
        return FINISHES.get(reason, "stop") if isinstance(reason, str) else "stop"


def _object(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if not isinstance(value, dict):
        raise malformed(f"{key} is no object")
    return value


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise malformed(f"{key} is no text")
    return value


def _index(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= 4096:
        raise malformed("index is no small number")
    return value

"""OpenAI's chat completions: POST /v1/chat/completions."""

from collections.abc import Sequence
from typing import Any

import orjson

from farthing.server import fields
from farthing.server.api import Asked
from farthing.server.errors import openai_error_body
from farthing.server.openai_renderer import Json, OpenAIRenderer, json_text, token_text
from farthing.server.openai_request import check_common
from farthing.upstreams import Chunk, TokenLogprob, ToolDelta, UpstreamError

__all__ = ["Chat"]


class Chat:
    endpoint = "chat"
    path = "/v1/chat/completions"

    def parse(self, body: Json) -> Asked:
        """What concerns every upstream is checked here, the rest is the upstream's to know."""
        messages = fields.objects(body, "messages")
        if not messages:
            message = "messages is missing or empty; give a list of at least one"
            raise fields.invalid(message, "messages", "missing_required_parameter")
        for i, message_object in enumerate(messages):
            fields.text(message_object, "role", f"messages[{i}].")
        fields.integer(body, "max_completion_tokens", 1)
        return check_common("chat", body)

    def renderer(self, asked: Asked, answer_id: str, created_s: int) -> "ChatRenderer":
        return ChatRenderer(asked, f"chatcmpl-{answer_id}", created_s)

    def error_body(self, error: UpstreamError, request_id: str) -> Json:  # noqa: ARG002 - it stands in a header
        return openai_error_body(error)


class ChatRenderer(OpenAIRenderer):
    chunk_object = "chat.completion.chunk"
    whole_object = "chat.completion"

    def _events(self, chunk: Chunk) -> bytes:
        index = chunk.index
        events = b""
        if index not in self._begun:
            self._begun.add(index)
            delta = b',"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null'
            events = self._event(index, delta, None)
        if not (chunk.text or chunk.reasoning or chunk.tool_calls or chunk.logprobs or chunk.finish_reason):
            return events
        parts = []
        if chunk.reasoning:
            parts.append(b'"reasoning_content":' + json_text(chunk.reasoning))
        if chunk.text or chunk.logprobs:
            parts.append(b'"content":' + json_text(chunk.text))
        if chunk.tool_calls:
            parts.append(b'"tool_calls":' + orjson.dumps([_tool_delta(delta) for delta in chunk.tool_calls]))
        logprobs = orjson.dumps(_logprobs(chunk.logprobs)) if chunk.logprobs else b"null"
        middle = b',"delta":{%s},"logprobs":%s' % (b",".join(parts), logprobs)
        return events + self._event(index, middle, chunk.finish_reason)

    def _choice(self, index: int, chunks: Sequence[Chunk]) -> Json:
        text = "".join(chunk.text for chunk in chunks)
        tools = _tool_calls([delta for chunk in chunks for delta in chunk.tool_calls])
        reasoning = "".join(chunk.reasoning for chunk in chunks)
        message: Json = {"role": "assistant", "content": token_text(text) if text or not tools else None}
        message["refusal"] = None
        if reasoning:
            message["reasoning_content"] = token_text(reasoning)
        if tools:
            message["tool_calls"] = tools
        logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs(logprobs) if logprobs else None,
            "finish_reason": next((chunk.finish_reason for chunk in reversed(chunks) if chunk.finish_reason), "stop"),
        }


def _logprobs(logprobs: Sequence[TokenLogprob]) -> Json:
    content = []
    for entry in logprobs:
        top = [_logprob(token, data, logprob) for token, data, logprob in entry.top]
        content.append({**_logprob(entry.token, entry.data, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _logprob(token: str, data: bytes, logprob: float) -> Json:
    return {"token": token_text(token), "logprob": max(logprob, -9999.0), "bytes": list(data)}


def _tool_delta(delta: ToolDelta) -> Json:
    function: Json = {"name": delta.name} if delta.name else {}
    function["arguments"] = token_text(delta.arguments)
    head: Json = {"index": delta.index}
    if delta.id:
        head |= {"id": delta.id, "type": "function"}
    return {**head, "function": function}


def _tool_calls(deltas: Sequence[ToolDelta]) -> list[Json]:
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.setdefault(delta.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = call["id"] or delta.id
        call["function"]["name"] = call["function"]["name"] or delta.name
        call["function"]["arguments"] += token_text(delta.arguments)
    return [calls[index] for index in sorted(calls)]

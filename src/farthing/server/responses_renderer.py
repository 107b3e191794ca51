"""Writes answers as /v1/responses does: a response with its output items, or the events that build one.

response.created  response.in_progress
    response.output_item.added                                                       one item for each stretch of
        response.content_part.added  response.output_text.delta …                    text and for each tool call
        response.output_text.done    response.content_part.done
        (a tool call: response.function_call_arguments.delta …  .done)
    response.output_item.done
response.completed, .incomplete or .failed, with the whole response, usage and cost
"""

from collections.abc import Mapping, Sequence
from typing import Any

from farthing.economics.usage import Usage
from farthing.server.answer_cost import costs_usd
from farthing.server.api import Ending
from farthing.server.sse import clean, event
from farthing.upstreams import Chunk, Tally, TokenLogprob, ToolDelta, UpstreamError

__all__ = ["ResponsesRenderer"]

Json = dict[str, Any]
INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponsesRenderer:
    """`given` is the client's body, parts of which a response repeats. Reasoning is counted and not shown."""

    def __init__(
        self, model: str, given: Mapping[str, Any], answer_id: str, created_s: int, *, has_logprobs: bool
    ) -> None:
        self._model = model
        self._given = given
        self._id = answer_id
        self._created_s = created_s
        self._has_logprobs = has_logprobs
        self._output: list[Json] = []
        self._is_open = False  # whether the last item is still being written
        self._tools: dict[int, int] = {}  # index of a tool call: its item
        self._finish_reason: str | None = None
        self._sequence_number = 0

    def start(self, tally: Tally) -> bytes:  # noqa: ARG002  a response tells its usage at the end
        response = self._response("in_progress", None)
        return self._events(
            [
                {"type": "response.created", "response": response},
                {"type": "response.in_progress", "response": response},
            ]
        )

    def chunk(self, chunk: Chunk) -> bytes:
        return self._events(self._take(chunk))

    def end(self, ending: Ending) -> bytes:
        events = self._close()
        response = self._ended(ending)
        return self._events([*events, {"type": f"response.{response['status']}", "response": response}])

    def failed(self, error: UpstreamError) -> bytes:
        codes = {429: "rate_limit_exceeded"}
        code = codes.get(error.status, error.code if error.status < 500 else "server_error")
        told = {"code": code, "message": str(error)}
        response = {**self._response("failed", None), "error": told}
        return self._events(
            [
                {"type": "error", **told, "param": error.param},
                {"type": "response.failed", "response": response},
            ]
        )

    def whole(self, chunks: Sequence[Chunk], ending: Ending) -> Json:
        for chunk in chunks:
            self._take(chunk)
        self._close()
        return self._ended(ending)

    def _ended(self, ending: Ending) -> Json:
        reason = INCOMPLETE.get(self._finish_reason or "stop")
        usage = _usage(ending)
        if reason is None:
            return self._response("completed", usage)
        return {**self._response("incomplete", usage), "incomplete_details": {"reason": reason}}

    def _take(self, chunk: Chunk) -> list[Json]:
        events = self._text(chunk) if chunk.text or (chunk.logprobs and self._has_logprobs) else []
        for delta in chunk.tool_calls:
            events += self._tool(delta)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        return events

    def _text(self, chunk: Chunk) -> list[Json]:
        events = []
        if not self._is_open or self._output[-1]["type"] != "message":
            head = {"type": "message", "role": "assistant", "content": []}
            events = self._new("msg", head)
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._output[-1]["content"].append(part)
            events.append(self._part("response.content_part.added", part={**part, "logprobs": []}))
        logprobs = [_logprob(token) for token in chunk.logprobs] if self._has_logprobs else []
        part = self._output[-1]["content"][0]
        text = clean(chunk.text)
        part["text"] += text
        part["logprobs"] += logprobs
        return [*events, self._part("response.output_text.delta", delta=text, logprobs=logprobs)]

    def _tool(self, delta: ToolDelta) -> list[Json]:
        events = []
        if delta.index not in self._tools:
            call_id = delta.id or f"call_{self._id}_{delta.index}"
            head = {"type": "function_call", "call_id": call_id, "name": delta.name, "arguments": ""}
            events = self._new("fc", head)
            self._tools[delta.index] = len(self._output) - 1
        index = self._tools[delta.index]
        if delta.arguments:
            item = self._output[index]
            arguments = clean(delta.arguments)
            item["arguments"] += arguments
            place = {"item_id": item["id"], "output_index": index}
            events.append({"type": "response.function_call_arguments.delta", **place, "delta": arguments})
        return events

    def _new(self, prefix: str, head: Json) -> list[Json]:
        events = self._close()
        index = len(self._output)
        item = {"id": f"{prefix}_{self._id}_{index}", **head, "status": "in_progress"}
        self._output.append(item)
        self._is_open = True
        shown = {**item, "content": []} if "content" in item else dict(item)
        return [*events, {"type": "response.output_item.added", "output_index": index, "item": shown}]

    def _close(self) -> list[Json]:
        """The last events of the open item. It is incomplete where the answer ended in the middle of it."""
        if not self._is_open:
            return []
        self._is_open = False
        item = self._output[-1]
        item["status"] = "incomplete" if self._finish_reason in INCOMPLETE else "completed"
        place = {"item_id": item["id"], "output_index": len(self._output) - 1}
        if item["type"] == "message":
            part = item["content"][0]
            text = {"text": part["text"], "logprobs": part["logprobs"]}
            events = [
                self._part("response.output_text.done", **text),
                self._part("response.content_part.done", part=part),
            ]
        else:
            done = {"name": item["name"], "arguments": item["arguments"]}
            events = [{"type": "response.function_call_arguments.done", **place, **done}]
        return [*events, {"type": "response.output_item.done", "output_index": place["output_index"], "item": item}]

    def _part(self, kind: str, **data: Any) -> Json:
        place = {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}
        return {"type": kind, **place, **data}

    def _events(self, events: list[Json]) -> bytes:
        first = self._sequence_number
        self._sequence_number += len(events)
        return b"".join(event({**data, "sequence_number": first + n}) for n, data in enumerate(events))

    def _response(self, status: str, usage: Json | None) -> Json:
        given = self._given
        text = given.get("text") or {}
        return {
            "id": f"resp_{self._id}",
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": given.get("instructions"),
            "max_output_tokens": given.get("max_output_tokens"),
            "model": self._model,
            "output": self._output if status != "in_progress" else [],
            "parallel_tool_calls": given.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": given.get("reasoning"),
            "store": False,
            "temperature": given.get("temperature"),
            "text": {**text, "format": text.get("format") or {"type": "text"}},
            "tool_choice": given.get("tool_choice") or "auto",
            "tools": given.get("tools") or [],
            "top_p": given.get("top_p"),
            "truncation": "disabled",
            "usage": usage,
            "metadata": given.get("metadata") or {},
        }


def _usage(ending: Ending) -> Json | None:
    """None where nobody knows what was used."""
    tally = ending.tally
    if tally.usage_source == "unavailable":
        return None
    costs = {**costs_usd(ending.receipts), **({"ended_by": "budget"} if tally.is_cut else {})}
    return {**_counts(tally.usage), **costs}


def _counts(usage: Usage) -> Json:
    cached = {"cached_tokens": usage.cache_read_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": cached,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _logprob(token: TokenLogprob) -> Json:
    top = [_likely(text, data, logprob) for text, data, logprob in token.top]
    return {**_likely(token.token, token.data, token.logprob), "top_logprobs": top}


def _likely(token: str, data: bytes, logprob: float) -> Json:
    """-9999 stands for minus infinity, which JSON has no number for, as in OpenAI's own answers."""
    return {"token": clean(token), "bytes": list(data), "logprob": max(logprob, -9999.0)}

"""Writes chat requests as the model reads them, with tools and tool calls even where its template knows none."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.template import encode_chat
from farthing.models.tokenizer import Tokenizer
from farthing.report.chat_requests import ChatRequest

__all__ = ["Rendering"]

_QUESTION = {"role": "user", "content": "q"}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "probe", "arguments": "{}"}}
_TOOL = {"type": "function", "function": {"name": "probe", "description": "d", "parameters": {"type": "object"}}}


class Rendering:
    """Token ids of messages and tools under one tokenizer's chat template.

    A template that leaves tools out would hide that they changed; hosted models put them before everything else. So
    there they are written in front of the messages, one JSON object a line, as they were given; tool calls that the
    template leaves out are written behind their message's content. `notes` says so.

    Raises InvalidRequest for a tokenizer without a template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.chat_template is None:
            raise InvalidRequest("this model's file has no chat template, so its prompts are not known; choose another")
        self._tokenizer = tokenizer
        self._has_tools = self._changes([_QUESTION], tools=[_TOOL])
        self._has_calls = self._changes([_QUESTION, {"role": "assistant", "content": "a", "tool_calls": [_CALL]}])

    def ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], *, add_generation_prompt: bool = True
    ) -> npt.NDArray[np.int32]:
        """Ids [T]. Raises InvalidRequest or CorruptModel where the template does not take the messages."""
        rows = messages if self._has_calls else [_with_calls_as_text(message) for message in messages]
        ids = encode_chat(
            self._tokenizer,
            rows,
            add_generation_prompt=add_generation_prompt,
            tools=tools if tools and self._has_tools else None,
        )
        if tools and not self._has_tools:
            written = "".join(_json(tool) + "\n" for tool in tools)
            ids = self._tokenizer.encode(written, add_bos=False) + ids
        return np.array(ids, np.int32)

    def notes(self, requests: Sequence[ChatRequest]) -> tuple[str, ...]:
        """What was written in another way than the model would read it."""
        notes = []
        if not self._has_tools and any(request.tools for request in requests):
            notes.append("this model's template knows no tools; they are counted as JSON before the messages")
        if not self._has_calls and any(m.get("tool_calls") for request in requests for m in request.messages):
            notes.append("this model's template knows no tool calls; they are counted as JSON behind their message")
        return tuple(notes)

    def _changes(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> bool:
        """Whether the template writes the tools, or the last message's calls. One that fails on them does not."""
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            without = encode_chat(self._tokenizer, plain)
        except (InvalidRequest, CorruptModel):
            return True
        try:
            return encode_chat(self._tokenizer, messages, tools=tools) != without
        except (InvalidRequest, CorruptModel):
            return False


def _with_calls_as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not calls:
        return message
    return {"role": message["role"], "content": (message.get("content") or "") + _json(calls)}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

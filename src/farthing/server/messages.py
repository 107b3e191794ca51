"""Anthropic's API: /v1/messages and /v1/messages/count_tokens.

The body stays as it came, unknown fields and all: Anthropic's own upstream gets it so, others convert it themselves.
"""

import asyncio
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from farthing.server import fields
from farthing.server.api import Asked
from farthing.server.messages_renderer import MessagesRenderer, error_object
from farthing.upstreams import Call, Upstream, UpstreamError

__all__ = ["COUNT_PATH", "CountsTokens", "Messages", "count_tokens"]

COUNT_PATH = "/v1/messages/count_tokens"
ROLES = ("user", "assistant", "system")


@runtime_checkable
class CountsTokens(Protocol):
    """An upstream whose provider counts a call's input tokens for nothing, and answers as this API does."""

    async def count_tokens(self, call: Call) -> dict[str, Any]: ...


class Messages:
    endpoint = "messages"
    path = "/v1/messages"

    def parse(self, body: dict[str, Any]) -> Asked:
        """Raises UpstreamError (status 400) for what no upstream could answer."""
        _check_input(body)
        if fields.integer(body, "max_tokens", 1) is None:
            raise fields.invalid("max_tokens is missing; give 1 or more", "max_tokens", "missing_required_parameter")
        fields.number(body, "temperature", 0, 1)
        fields.number(body, "top_p", 0, 1)
        fields.integer(body, "top_k", 0)
        stops = body.get("stop_sequences")
        if stops is not None and not (isinstance(stops, list) and all(isinstance(s, str) and s for s in stops)):
            raise fields.invalid("stop_sequences: allowed is a list of strings, none empty", "stop_sequences")
        is_stream = fields.boolean(body, "stream")
        return Asked("messages", body, fields.text(body, "model"), is_stream)

    def parse_count(self, body: dict[str, Any]) -> Asked:
        """What count_tokens is asked: the same without max_tokens. Raises UpstreamError (status 400)."""
        _check_input(body)
        return Asked("messages", body, fields.text(body, "model"), is_stream=False)

    def renderer(self, asked: Asked, answer_id: str, created_s: int) -> MessagesRenderer:  # noqa: ARG002  no place for a time
        return MessagesRenderer(asked, f"msg_{answer_id}")

    def error_body(self, error: UpstreamError, request_id: str) -> dict[str, Any]:
        return {**error_object(error), "request_id": request_id}


async def count_tokens(upstream: Upstream, call: Call) -> dict[str, Any]:
    """The answer of count_tokens: as the provider counts where it does, otherwise as the upstream counts the prompt for
    a reservation (exact for local models). Nothing is computed, billed or written down.

    Raises UpstreamError.
    """
    if isinstance(upstream, CountsTokens):
        return await upstream.count_tokens(call)
    # Only an answer has a max_tokens, and an upstream's bound needs one. A local model may have to be loaded for it.
    asked = replace(call, body={**call.body, "max_tokens": 1}, raw=None)
    return {"input_tokens": (await asyncio.to_thread(upstream.max_usage, asked)).input_tokens}


def _check_input(body: dict[str, Any]) -> None:
    fields.text(body, "model")
    messages = fields.objects(body, "messages")
    if not messages:
        raise fields.invalid("messages is missing or empty; give one or more", "messages", "missing_required_parameter")
    for number, message in enumerate(messages):
        where = f"messages.{number}."
        if fields.one_of(message, "role", ROLES, where) is None:
            raise fields.invalid(f"{where}role is missing; give {', '.join(ROLES)}", f"{where}role")
        _check_content(message.get("content"), f"{where}content")
    if body.get("system") is not None:
        _check_content(body["system"], "system")
    fields.objects(body, "tools")
    for name in ("tool_choice", "metadata", "thinking"):
        if body.get(name) is not None and not isinstance(body[name], dict):
            raise fields.invalid(f"{name} is {type(body[name]).__name__}; allowed: an object", name)


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise fields.invalid(f"{where} is {type(content).__name__}; allowed: a string or a list of blocks", where)
    for number, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise fields.invalid(f"{where}.{number}: allowed is an object with a type", f"{where}.{number}")

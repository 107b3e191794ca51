"""Chat messages as OpenAI's clients write them, to rows for a chat template."""

import json
from collections.abc import Mapping
from typing import Any

from farthing.upstreams.body import Body, refuse, unsupported

__all__ = ["read_messages"]

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 10_000
TEXT_PARTS = ("text", "refusal")


def read_messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Raises UpstreamError (400) for what is no conversation, and for parts that are not text."""
    if not isinstance(value, list) or not value:
        refuse("messages", "allowed: an array of one message or more, each with role and content")
    if len(value) > MAX_MESSAGES:
        refuse("messages", f"has {len(value)} messages; allowed: {MAX_MESSAGES}")
    return tuple(_row(f"messages[{number}]", message) for number, message in enumerate(value))


def _row(at: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        refuse(at, "allowed: an object with role and content")
    body = Body(message, f"{at}.")
    role = body.choice("role", ROLES)
    if role is None:
        body.refuse("role", f"is missing; allowed: {', '.join(ROLES)}")
    row: dict[str, Any] = {"role": role}
    calls = body.array("tool_calls", 128) if role == "assistant" else None
    content = body.take("content")
    if content is None and role == "assistant":
        content = body.take("refusal")
    row["content"] = _text(f"{at}.content", content, is_optional=role == "assistant")
    if calls:
        row["tool_calls"] = [_call(f"{at}.tool_calls[{i}]", call) for i, call in enumerate(calls)]
    body.text("id")  # of an answer that is sent back
    name = body.text("name")
    if name is not None:
        row["name"] = name
    if role == "tool":
        row["tool_call_id"] = body.text("tool_call_id") or ""
    if role == "assistant":
        # What an answer of ours, or of a provider, has beside its text; clients send it back as it came.
        for other in ("refusal", "annotations", "audio", "function_call", "reasoning", "reasoning_content"):
            if body.take(other) and other in ("audio", "function_call"):
                unsupported(f"{at}.{other}", "this model reads text and tool_calls only")
    body.end()
    return row


def _text(at: str, content: Any, *, is_optional: bool) -> str:
    if isinstance(content, str):
        return content
    if content is None and is_optional:
        return ""
    if not isinstance(content, list):
        refuse(at, "allowed: a string, or an array of parts of type text")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            unsupported(f"{at}[{number}]", f"this model reads text only, and this part is {kind[:60]!r}")
        text = part.get(kind) if isinstance(kind, str) else None
        if not isinstance(text, str):
            refuse(f"{at}[{number}]", 'allowed: {"type": "text", "text": "…"}')
        texts.append(text)
    return "".join(texts)


def _call(at: str, call: Any) -> dict[str, Any]:
    """A call of an earlier answer. Templates want arguments as an object (they print it as JSON); what is none is left
    as the text it is."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    arguments = function.get("arguments", "{}") if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, str):
        refuse(at, 'allowed: {"id": "…", "type": "function", "function": {"name": "…", "arguments": "{…}"}}')
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        parsed = arguments
    id = call.get("id")
    function_row = {"name": name, "arguments": parsed if isinstance(parsed, dict) else arguments}
    return {"id": id if isinstance(id, str) else "", "type": "function", "function": function_row}

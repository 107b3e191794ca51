"""Reads OpenAI chat requests as they were sent, to compare one with the next: only what stands in the prompt is looked
at, everything else is left alone. `workload.py` reads them to run them and is stricter."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from farthing.errors import InvalidRequest
from farthing.models.template import ROLES

__all__ = ["ChatRequest", "parse_requests"]


@dataclass(frozen=True)
class ChatRequest:
    """messages: objects with role, content (a string, or None beside tool_calls) and what else they had."""

    name: str  # its file, with the line or place in it where it has several
    model: str  # "" where it names none
    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Any, ...] = ()


def parse_requests(name: str, content: bytes) -> list[ChatRequest]:
    """The requests of one file, in order: one JSON object, a JSON list of them, or JSON Lines.

    A line of a batch file ({"body": {...}}) counts as its body; `system` beside messages as a first message. Raises
    InvalidRequest that names the file, the line and the field.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{name}: not UTF-8 text (byte {error.start}); give JSON in UTF-8") from None
    found = [_request(where, body) for where, body in _bodies(name, text)]
    if not found:
        raise InvalidRequest(f"{name}: no request in it; write an OpenAI chat request as JSON, or one per line")
    return found


def _bodies(name: str, text: str) -> Iterator[tuple[str, Any]]:
    # Only \n ends a line: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _is_object(lines[0][1]):
        for number, line in lines:
            where = f"{name}, line {number}"
            yield where, _json(where, line)
    elif lines:
        whole = _json(name, text)
        if isinstance(whole, list):
            yield from ((f"{name}, item {number}", body) for number, body in enumerate(whole, 1))
        else:
            yield name, whole


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise InvalidRequest(f"{where}: not JSON ({error.msg}, {place})") from None
    except ValueError as error:  # a number of thousands of digits
        raise InvalidRequest(f"{where}: not JSON that can be read ({error})") from None
    except RecursionError:
        raise InvalidRequest(f"{where}: JSON nested too deeply") from None


def _request(where: str, body: Any) -> ChatRequest:
    if isinstance(body, dict) and "messages" not in body and isinstance(body.get("body"), dict):
        body = body["body"]
    if not isinstance(body, dict):
        raise InvalidRequest(f"{where}: {type(body).__name__} instead of an object with 'messages'")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"{where}: 'messages' is missing or empty; give a list of {{role, content}}")
    model, tools = body.get("model") or "", body.get("tools") or []
    if not isinstance(model, str):
        raise InvalidRequest(f"{where}: model is {type(model).__name__}; allowed: a string")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InvalidRequest(f"{where}: tools is not a list of objects")
    if body.get("system") is not None:
        messages = [{"role": "system", "content": body["system"]}, *messages]
    parsed = tuple(_message(f"{where}, message {number}", message) for number, message in enumerate(messages, 1))
    return ChatRequest(where, model, parsed, tuple(tools))


def _message(where: str, message: Any) -> Mapping[str, Any]:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where}: {type(message).__name__} instead of an object with 'role' and 'content'")
    if message.get("role") not in ROLES:
        raise InvalidRequest(f"{where}: role is {message.get('role')!r}; allowed: {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(where, part) for part in content)
    elif not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        kind = type(content).__name__
        raise InvalidRequest(f"{where}: content is {kind}; allowed: a string or a list of text parts")
    return {**message, "content": content}


def _part(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text" or not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{where}: content part of type {kind!r}; allowed: text (no images, audio or files)")
    return str(part["text"])

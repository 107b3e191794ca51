"""Turns the input of /v1/responses, items of many kinds, into chat messages, tools and a response format."""

from collections.abc import Mapping
from typing import Any

from farthing.server import fields
from farthing.upstreams import UpstreamError

__all__ = ["chat_messages", "chat_tool_choice", "chat_tools", "response_format"]

Json = dict[str, Any]
ROLES = ("user", "assistant", "system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text")


def chat_messages(body: Mapping[str, Any]) -> list[Json]:
    """The instructions, then the input. Raises UpstreamError (status 400) for items that are not text or tool calls."""
    messages: list[Json] = []
    instructions = body.get("instructions")
    if instructions is not None:
        if not isinstance(instructions, str):
            raise fields.invalid("instructions: allowed is a string", "instructions")
        messages.append({"role": "system", "content": instructions})
    given = body.get("input")
    if isinstance(given, str) and given:
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise fields.invalid("input is missing or empty; give a string or a list of items", "input")
    for number, item in enumerate(given):
        _add(messages, item, f"input[{number}]")
    if not messages:
        raise fields.invalid("input holds nothing to answer; give a message", "input")
    return messages


def chat_tools(body: Mapping[str, Any]) -> list[Json]:
    tools = []
    for number, tool in enumerate(fields.objects(body, "tools")):
        if tool.get("type") != "function":
            raise _unsupported(f"tools[{number}].type", tool.get("type"), "function")
        fields.text(tool, "name", f"tools[{number}].")
        names = ("name", "description", "parameters", "strict")
        tools.append({"type": "function", "function": {n: tool[n] for n in names if tool.get(n) is not None}})
    return tools


def chat_tool_choice(choice: Any) -> Any:
    if choice in ("none", "auto", "required"):
        return choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": fields.text(choice, "name", "tool_choice.")}}
    kind = choice.get("type") if isinstance(choice, dict) else choice
    raise _unsupported("tool_choice", kind, "none, auto, required, or an object of type function with a name")


def response_format(wanted: Any) -> Json | None:
    """text.format as chat's response_format; None is plain text."""
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise _unsupported("text.format.type", kind, "text, json_object, json_schema")
    fields.text(wanted, "name", "text.format.")
    if not isinstance(wanted.get("schema"), dict):
        raise fields.invalid("text.format.schema is missing; give a JSON schema", "text.format.schema")
    names = ("name", "description", "schema", "strict")
    return {"type": "json_schema", "json_schema": {n: wanted[n] for n in names if wanted.get(n) is not None}}


def _add(messages: list[Json], item: Any, where: str) -> None:
    """One item as a message; a call joins the assistant's message before it, as chat has them together."""
    if not isinstance(item, dict):
        raise fields.invalid(f"{where} is {type(item).__name__}; allowed: an object", where)
    kind = item.get("type", "message")
    if kind == "message":
        role = fields.one_of(item, "role", ROLES, f"{where}.")
        if role is None:
            raise fields.invalid(f"{where}.role is missing; give {', '.join(ROLES)}", f"{where}.role")
        content = _content(item.get("content"), f"{where}.content")
        messages.append({"role": "system" if role == "developer" else role, "content": content})
    elif kind == "function_call":
        call = {name: fields.text(item, name, f"{where}.") for name in ("call_id", "name", "arguments")}
        function = {"name": call["name"], "arguments": call["arguments"]}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        calls = messages[-1].setdefault("tool_calls", [])
        calls.append({"id": call["call_id"], "type": "function", "function": function})
    elif kind == "function_call_output":
        output = _content(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": fields.text(item, "call_id", f"{where}."), "content": output})
    elif kind != "reasoning":  # thoughts before an earlier answer: chat has no place for them, templates leave them out
        raise _unsupported(f"{where}.type", kind, "message, function_call, function_call_output, reasoning")


def _content(content: Any, where: str) -> str | list[Json]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise fields.invalid(f"{where}: allowed is a string or a list of text parts", where)
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else part
        if kind not in TEXT_PARTS:
            raise _unsupported(f"{where}[{number}].type", kind, "input_text, output_text")
        if not isinstance(part.get("text"), str):
            raise fields.invalid(f"{where}[{number}].text: allowed is a string", f"{where}[{number}].text")
        texts.append(part["text"])
    return texts[0] if len(texts) == 1 else [{"type": "text", "text": text} for text in texts]


def _unsupported(name: str, given: Any, allowed: str) -> UpstreamError:
    shown = given if isinstance(given, str) and len(given) <= 60 else type(given).__name__
    return fields.invalid(f"{name} is {shown!r}; allowed: {allowed}", name, "unsupported_value")

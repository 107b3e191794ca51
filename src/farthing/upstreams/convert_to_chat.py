"""An Anthropic messages body as an OpenAI chat body.

    user [tool_result A, tool_result B, text, image]  ->  tool A, tool B, user [text, image]
    assistant [thinking, text, tool_use]              ->  assistant text, tool_calls

Tool results go first, for chat wants them right after the calls. Pictures in a tool result have no place in a tool
message: they go into the user message that follows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from farthing.upstreams.call import Call
from farthing.upstreams.convert_fields import dumps, invalid, items, mapping, refuse_others, text, unsupported

__all__ = ["as_chat"]

TARGET = "OpenAI's chat completions"
SAME = ("temperature", "top_p", "top_k", "stream", "max_tokens")  # called alike in both wires
CHANGED = ("model", "messages", "system", "stop_sequences", "metadata", "tools", "tool_choice", "thinking")


def as_chat(call: Call) -> Call:
    """Raises UpstreamError (400) for a body that is no messages body, and for what chat cannot say."""
    body = call.body
    refuse_others(body, (*SAME, *CHANGED, "service_tier"), "", TARGET)
    _refuse_thinking(body.get("thinking"))
    if body.get("service_tier") not in (None, "auto"):
        raise unsupported("service_tier", TARGET)
    messages = _system(body.get("system"))
    for at, message in enumerate(items(body.get("messages"), "messages")):
        messages += _message(mapping(message, f"messages.{at}"), f"messages.{at}")
    chat: dict[str, Any] = {"model": call.model, "messages": messages}
    chat |= {key: body[key] for key in SAME if body.get(key) is not None}
    if body.get("stop_sequences") is not None:
        chat["stop"] = items(body["stop_sequences"], "stop_sequences")
    if body.get("metadata") is not None:
        metadata = mapping(body["metadata"], "metadata")
        refuse_others(metadata, ("user_id",), "metadata.", TARGET)
        if metadata.get("user_id") is not None:
            chat["user"] = text(metadata["user_id"], "metadata.user_id")
    if body.get("tools"):
        chat["tools"] = [_tool(tool, f"tools.{at}") for at, tool in enumerate(items(body["tools"], "tools"))]
    if body.get("tool_choice") is not None:
        chat |= _tool_choice(mapping(body["tool_choice"], "tool_choice"))
    return replace(call, wire="chat", body=chat, raw=None)


def _refuse_thinking(thinking: object) -> None:
    if thinking is not None and mapping(thinking, "thinking").get("type") != "disabled":
        raise unsupported("thinking", TARGET)


def _system(system: object) -> list[dict[str, Any]]:
    """One system message: several texts are paragraphs of it, since many servers take a plain string only."""
    if system is None or system == "" or system == []:
        return []
    if isinstance(system, str):
        return [{"role": "system", "content": system}]
    texts = []
    for at, block in enumerate(items(system, "system")):
        block = mapping(block, f"system.{at}")
        if block.get("type") != "text":
            raise unsupported(f"system.{at}.type", TARGET)
        texts.append(text(block.get("text"), f"system.{at}.text"))
    return [{"role": "system", "content": "\n\n".join(texts)}]


def _message(message: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    role, content = message.get("role"), message.get("content")
    refuse_others(message, ("role", "content"), f"{where}.", TARGET)
    if role not in ("user", "assistant"):
        raise invalid(f"{where}.role", '"user" or "assistant"')
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    blocks = [
        (mapping(block, f"{where}.content.{at}"), f"{where}.content.{at}")
        for at, block in enumerate(items(content, f"{where}.content"))
    ]
    return _assistant(blocks) if role == "assistant" else _user(blocks)


def _assistant(blocks: list[tuple[Mapping[str, Any], str]]) -> list[dict[str, Any]]:
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block, where in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(text(block.get("text"), f"{where}.text"))
        elif kind == "tool_use":
            arguments = dumps(mapping(block.get("input"), f"{where}.input"), f"{where}.input").decode()
            function = {"name": text(block.get("name"), f"{where}.name"), "arguments": arguments}
            calls.append({"id": text(block.get("id"), f"{where}.id"), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise unsupported(f"{where}.type", TARGET)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    return [message | ({"tool_calls": calls} if calls else {})]


def _user(blocks: list[tuple[Mapping[str, Any], str]]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    parts: list[dict[str, Any]] = []
    for block, where in blocks:
        if block.get("type") == "tool_result":
            result, pictures = _tool_result(block, where)
            results.append(result)
            parts += pictures
        else:
            parts.append(_part(block, where))
    if not parts:
        return results or [{"role": "user", "content": ""}]
    is_plain = len(parts) == 1 and parts[0]["type"] == "text"
    return [*results, {"role": "user", "content": parts[0]["text"] if is_plain else parts}]


def _tool_result(block: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The tool message, and the pictures that it cannot hold. is_error has no field: its text says it."""
    content = block.get("content")
    parts: list[dict[str, Any]] = []
    if content is not None and not isinstance(content, str):
        for at, inner in enumerate(items(content, f"{where}.content")):
            inner_where = f"{where}.content.{at}"
            parts.append(_part(mapping(inner, inner_where), inner_where))
        content = "\n".join(part["text"] for part in parts if part["type"] == "text")
    call_id = text(block.get("tool_use_id"), f"{where}.tool_use_id")
    message = {"role": "tool", "tool_call_id": call_id, "content": content or ""}
    return message, [part for part in parts if part["type"] != "text"]


def _part(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": text(block.get("text"), f"{where}.text")}
    if kind != "image":
        raise unsupported(f"{where}.type", TARGET)
    source = mapping(block.get("source"), f"{where}.source")
    if source.get("type") == "url":
        url = text(source.get("url"), f"{where}.source.url")
    elif source.get("type") == "base64":
        media_type = text(source.get("media_type"), f"{where}.source.media_type")
        url = f"data:{media_type};base64,{text(source.get('data'), f'{where}.source.data')}"
    else:
        raise unsupported(f"{where}.source.type", TARGET)
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: object, where: str) -> dict[str, Any]:
    tool = mapping(tool, where)
    if tool.get("type") not in (None, "custom"):  # a tool that Anthropic's servers run
        raise unsupported(f"{where}.type", TARGET)
    known = ("name", "description", "input_schema", "type", "cache_control", "strict")
    refuse_others(tool, known, f"{where}.", TARGET)
    function: dict[str, Any] = {"name": text(tool.get("name"), f"{where}.name")}
    if tool.get("description") is not None:
        function["description"] = text(tool["description"], f"{where}.description")
    function["parameters"] = mapping(tool.get("input_schema"), f"{where}.input_schema")
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    plain = {"auto": "auto", "any": "required", "none": "none"}
    kind = choice.get("type")
    if kind == "tool":
        name = text(choice.get("name"), "tool_choice.name")
        said: dict[str, Any] = {"tool_choice": {"type": "function", "function": {"name": name}}}
    elif isinstance(kind, str) and kind in plain:
        said = {"tool_choice": plain[kind]}
    else:
        raise invalid("tool_choice.type", '"auto", "any", "tool" or "none"')
    if choice.get("disable_parallel_tool_use") is True:
        said["parallel_tool_calls"] = False
    return said

"""An OpenAI chat body as an Anthropic messages body.

    system, developer                     ->  system (all of them, in order)
    assistant text, tool_calls            ->  assistant [text, tool_use …]
    tool A, tool B, user                  ->  user [tool_result A, tool_result B, text]

All results of one turn stand in one user message, as Anthropic wants it. cache_control of a part or tool (as OpenRouter
and others take it) goes along.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from farthing.upstreams.call import Call
from farthing.upstreams.convert_fields import invalid, items, mapping, refuse_others, text, unsupported

__all__ = ["DEFAULT_MAX_TOKENS", "as_messages"]

TARGET = "Anthropic's messages API"
DEFAULT_MAX_TOKENS = 4096  # Anthropic demands a number; OpenAI's clients need not give one
SAME = ("temperature", "top_p", "top_k", "stream")
CHANGED = (
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "user",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream_options",
)
HINTS = ("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier")  # labels: no answer changes
# What has a value that says nothing beyond the default: that one is taken and not handed on.
HARMLESS: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "store": (False,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
}
DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")


def as_messages(call: Call) -> Call:
    """Raises UpstreamError (400) for a body that is no chat body, and for what messages cannot say."""
    body = call.body
    refuse_others(body, (*SAME, *CHANGED, *HINTS, *HARMLESS), "", TARGET)
    for key, values in HARMLESS.items():
        if body.get(key) is not None and body[key] not in values:
            raise unsupported(key, TARGET)
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    for at, message in enumerate(items(body.get("messages"), "messages")):
        _add(mapping(message, f"messages.{at}"), f"messages.{at}", system, messages)
    limits = [body[key] for key in ("max_completion_tokens", "max_tokens") if body.get(key) is not None]
    said: dict[str, Any] = {"model": call.model, "max_tokens": limits[0] if limits else DEFAULT_MAX_TOKENS}
    if system:
        is_plain = len(system) == 1 and system[0].keys() == {"type", "text"}
        said["system"] = system[0]["text"] if is_plain else system
    said["messages"] = messages
    said |= {key: body[key] for key in SAME if body.get(key) is not None}
    if isinstance(said.get("temperature"), int | float) and said["temperature"] > 1:
        raise invalid("temperature", "0 to 1 for an upstream that speaks Anthropic's messages API")
    if body.get("stop") is not None:
        said["stop_sequences"] = [body["stop"]] if isinstance(body["stop"], str) else items(body["stop"], "stop")
    if body.get("user") is not None:
        said["metadata"] = {"user_id": text(body["user"], "user")}
    return replace(call, wire="messages", body=said | _tools(body), raw=None)


def _add(message: Mapping[str, Any], where: str, system: list[dict[str, Any]], messages: list[dict[str, Any]]) -> None:
    role = message.get("role")
    if role in ("system", "developer"):
        system += _blocks(message.get("content"), f"{where}.content", is_text_only=True)
    elif role == "assistant":
        messages.append({"role": "assistant", "content": _assistant(message, where)})
    elif role == "tool":
        content = message.get("content")
        result: dict[str, Any] = {
            "type": "tool_result",
            "tool_use_id": text(message.get("tool_call_id"), f"{where}.tool_call_id"),
            "content": content if isinstance(content, str) else _blocks(content, f"{where}.content"),
        }
        if messages and _is_results(messages[-1]):
            messages[-1]["content"].append(result)
        else:
            messages.append({"role": "user", "content": [result]})
    elif role == "user":
        content = message.get("content")
        if messages and _is_results(messages[-1]):
            messages[-1]["content"] += _blocks(content, f"{where}.content")
        else:
            blocks = content if isinstance(content, str) else _blocks(content, f"{where}.content")
            messages.append({"role": "user", "content": blocks})
    else:
        raise invalid(f"{where}.role", '"system", "developer", "user", "assistant" or "tool"')


def _is_results(message: dict[str, Any]) -> bool:
    """Whether it holds tool results and nothing else yet."""
    content = message["content"]
    is_listed = message["role"] == "user" and isinstance(content, list) and bool(content)
    return is_listed and content[-1]["type"] == "tool_result"


def _assistant(message: Mapping[str, Any], where: str) -> str | list[dict[str, Any]]:
    content, calls = message.get("content"), message.get("tool_calls")
    if message.get("audio") is not None or message.get("function_call") is not None:
        raise unsupported(f"{where}.audio" if message.get("audio") is not None else f"{where}.function_call", TARGET)
    if content is None and not calls:
        content = message.get("refusal")
    if isinstance(content, str) and not calls:
        return content
    blocks = [] if content is None or content == "" else _blocks(content, f"{where}.content", is_text_only=True)
    for at, call in enumerate(items(calls or [], f"{where}.tool_calls")):
        call_where = f"{where}.tool_calls.{at}"
        call = mapping(call, call_where)
        function = mapping(call.get("function"), f"{call_where}.function")
        blocks.append(
            {
                "type": "tool_use",
                "id": text(call.get("id"), f"{call_where}.id"),
                "name": text(function.get("name"), f"{call_where}.function.name"),
                "input": _arguments(function.get("arguments"), f"{call_where}.function.arguments"),
            }
        )
    return blocks


def _arguments(arguments: object, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text(arguments, where) or "{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise invalid(where, "the text of a JSON object")
    return value


def _blocks(content: object, where: str, *, is_text_only: bool = False) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = []
    for at, part in enumerate(items(content, where)):
        block = _block(mapping(part, f"{where}.{at}"), f"{where}.{at}")
        if is_text_only and block["type"] != "text":
            raise unsupported(f"{where}.{at}.type", TARGET)
        blocks.append(block)
    return blocks


def _block(part: Mapping[str, Any], where: str) -> dict[str, Any]:
    hint = {"cache_control": part["cache_control"]} if part.get("cache_control") is not None else {}
    kind = part.get("type")
    if kind == "text" or kind == "refusal":
        return {"type": "text", "text": text(part.get(kind), f"{where}.{kind}")} | hint
    if kind != "image_url":
        raise unsupported(f"{where}.type", TARGET)
    url = text(mapping(part.get("image_url"), f"{where}.image_url").get("url"), f"{where}.image_url.url")
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}} | hint
    head = DATA_URL.match(url)
    if head is None:
        raise invalid(f"{where}.image_url.url", 'an address, or "data:<media type>;base64,<data>"')
    source = {"type": "base64", "media_type": head[1], "data": url[head.end() :]}
    return {"type": "image", "source": source} | hint


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if body.get("tools"):
        said["tools"] = [_tool(tool, f"tools.{at}") for at, tool in enumerate(items(body["tools"], "tools"))]
    choice = _tool_choice(body.get("tool_choice"))
    if body.get("parallel_tool_calls") is False and "tools" in said:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    return said | ({"tool_choice": choice} if choice else {})


def _tool(tool: object, where: str) -> dict[str, Any]:
    tool = mapping(tool, where)
    if tool.get("type") != "function":
        raise unsupported(f"{where}.type", TARGET)
    function = mapping(tool.get("function"), f"{where}.function")
    said: dict[str, Any] = {"name": text(function.get("name"), f"{where}.function.name")}
    if function.get("description") is not None:
        said["description"] = text(function["description"], f"{where}.function.description")
    schema = function.get("parameters")
    said["input_schema"] = {"type": "object"} if schema is None else mapping(schema, f"{where}.function.parameters")
    if function.get("strict") is not None:
        said["strict"] = function["strict"]
    if tool.get("cache_control") is not None:
        said["cache_control"] = tool["cache_control"]
    return said


def _tool_choice(choice: object) -> dict[str, Any] | None:
    plain = {"auto": "auto", "required": "any", "none": "none"}
    if choice is None:
        return None
    if isinstance(choice, str) and choice in plain:
        return {"type": plain[choice]}
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        function = mapping(choice.get("function"), "tool_choice.function")
        return {"type": "tool", "name": text(function.get("name"), "tool_choice.function.name")}
    raise invalid("tool_choice", '"auto", "required", "none" or one function')

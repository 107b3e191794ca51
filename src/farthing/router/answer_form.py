"""Whether an answer has the form that was asked for: what no model has to be asked about.

A schema is checked by its shape: type, properties, required, additionalProperties, items, enum, const. What else it
says is taken to hold.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from farthing.upstreams.call import Call, ToolDelta

__all__ = ["fault", "fits"]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "number": (int, float), "integer": (int,),
}  # fmt: skip


def fault(call: Call, text: str, deltas: Sequence[ToolDelta], finish_reason: str | None) -> str | None:
    """What is wrong, in a word or two, or None."""
    if finish_reason == "content_filter":
        return "filtered"
    if deltas:
        return None if _are_calls(call.body, deltas) else "malformed tool call"
    if call.body.get("tool_choice") == "required" or not text.strip():
        return "no tool call" if text.strip() else "empty"
    form = call.body.get("response_format")
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind not in ("json_object", "json_schema"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "not JSON"
    described = form.get("json_schema") if isinstance(form, Mapping) else None
    schema = described.get("schema") if isinstance(described, Mapping) else None
    try:
        is_right = isinstance(value, dict) if kind == "json_object" else fits(value, schema)
    except (TypeError, AttributeError, RecursionError):  # it is no schema; the upstream took it all the same
        return None
    return None if is_right else "not of its schema"


def fits(value: Any, schema: Any) -> bool:
    """Whether a JSON value has a schema's shape."""
    if not isinstance(schema, Mapping):
        return schema is not False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    kinds = schema.get("type")
    if kinds is not None and not any(_is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, dict):
        return _fits_object(value, schema)
    items = schema.get("items")
    return not isinstance(value, list) or items is None or all(fits(item, items) for item in value)


def _fits_object(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    known = schema.get("properties") or {}
    if any(name not in value for name in schema.get("required") or ()):
        return False
    others = schema.get("additionalProperties", True)
    return all(fits(item, known.get(name, others)) for name, item in value.items())


def _is_of(value: Any, kind: object) -> bool:
    allowed = _TYPES.get(str(kind))
    if allowed is None:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, allowed):
        return True
    return kind == "integer" and isinstance(value, float) and value.is_integer()


def _are_calls(body: Mapping[str, Any], deltas: Sequence[ToolDelta]) -> bool:
    """Whether every call names a tool that was offered, with a JSON object."""
    offered = {name for tool in body.get("tools") or () if (name := _tool_name(tool))}
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in deltas:
        names[delta.index] = names.get(delta.index, "") or delta.name
        arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    try:
        values = [json.loads(text or "{}") for text in arguments.values()]
    except (ValueError, RecursionError):
        return False
    return all(isinstance(value, dict) for value in values) and offered.issuperset(names.values())


def _tool_name(tool: Any) -> str | None:
    """Of OpenAI's form (under function) and of Anthropic's."""
    if not isinstance(tool, Mapping):
        return None
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else tool.get("name")
    return name if isinstance(name, str) else None

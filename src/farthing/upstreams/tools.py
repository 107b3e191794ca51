"""Tools as a client offers them, and which of them it wants called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.upstreams.body import Body, refuse

__all__ = ["Choice", "read_tools"]

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def read_tools(tools: Sequence[Any] | None) -> dict[str, Mapping[str, Any]]:
    """The tools by name, each as {"type": "function", "function": {…}}. Raises UpstreamError (400)."""
    found: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(tools or ()):
        at = f"tools[{number}]"
        if not isinstance(tool, dict):
            refuse(at, 'allowed: {"type": "function", "function": {"name": "…", "parameters": {…}}}')
        body = Body(tool, f"{at}.")
        if body.choice("type", ("function",)) is None:
            body.refuse("type", "is missing; allowed: function")
        function = body.mapping("function")
        if function is None:
            body.refuse("function", "is missing; give an object with name and parameters")
        body.end()
        name, described = _function(Body(function, f"{at}.function."))
        if name in found:
            refuse(f"{at}.function.name", f"{name!r} is the name of two tools")
        found[name] = {"type": "function", "function": described}
    return found


def _function(body: Body) -> tuple[str, dict[str, Any]]:
    name = body.text("name")
    if name is None or not NAME.fullmatch(name):
        body.refuse("name", "allowed: 1 to 64 of a-z, A-Z, 0-9, _ and -")
    description = body.text("description")
    parameters = body.mapping("parameters")
    body.flag("strict", False)  # a call that is forced always obeys its schema
    body.end()
    described: dict[str, Any] = {"name": name}
    if description is not None:
        described["description"] = description
    described["parameters"] = parameters if parameters is not None else {"type": "object", "properties": {}}
    return name, described


@dataclass(frozen=True)
class Choice:
    """OpenAI's tool_choice: forced are the tools of which one must be called, once where it is a named one; is_none
    hides them from the model."""

    forced: tuple[str, ...] = ()
    is_none: bool = False
    is_named: bool = False

    @classmethod
    def of(cls, value: Any, names: tuple[str, ...]) -> "Choice":
        """Raises UpstreamError (400)."""
        if value is None or value == "auto":
            return cls()
        if value == "none":
            return cls(is_none=True)
        if value == "required":
            if not names:
                refuse("tool_choice", "required needs tools")
            return cls(forced=names)
        function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            refuse("tool_choice", 'allowed: none, auto, required, {"type": "function", "function": {"name": "…"}}')
        if name not in names:
            refuse("tool_choice", f"names {name[:64]!r}; the tools are: {', '.join(names) or 'none'}")
        return cls(forced=(name,), is_named=True)

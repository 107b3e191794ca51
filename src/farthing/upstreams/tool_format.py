"""How a model writes calls of tools: what its chat template says, and the grammar that makes it write one.

hermes   <tool_call>\\n{"name": "f", "arguments": {…}}\\n</tool_call>    Qwen, Hermes and others; several may follow
llama3   {"name": "f", "parameters": {…}}                             the whole answer
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from farthing.upstreams.body import unsupported
from farthing.upstreams.schema import OPTIONS, json_source

if TYPE_CHECKING:
    from farthing.models.tokenizer import Tokenizer

__all__ = ["CLOSE", "OPEN", "ToolFormat", "call_grammar"]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True)
class ToolFormat:
    """control: the marks that are control tokens of this model, by text."""

    kind: Literal["hermes", "llama3"]
    control: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tokenizer: "Tokenizer") -> "ToolFormat | None":
        """None for a model whose template knows no tools, or writes their calls in a way that is not known here."""
        template = tokenizer.chat_template or ""
        if not re.search(r"\btools\b", template):
            return None
        if OPEN in template and "<function=" not in template and "<arg_key>" not in template:
            ids = tokenizer.control_tokens
            return cls("hermes", {mark: ids[mark] for mark in (OPEN, CLOSE) if mark in ids})
        if '"parameters"' in template and ("python_tag" in template or "ipython" in template):
            return cls("llama3")
        return None

    @property
    def shown(self) -> dict[int, str]:
        """Control tokens that are part of a call's text."""
        return {id: mark for mark, id in self.control.items()}


def call_grammar(
    format: ToolFormat,
    tools: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    *,
    is_parallel: bool,
    form: Any = None,
) -> str:
    """A Lark grammar for a call of one of these tools, several where is_parallel; or, with `form`, JSON by that schema
    instead of a call."""
    lines = ["%llguidance {}"]
    rules = [f"tool_{number}" for number in range(len(names))]
    if format.kind == "hermes":
        start = f"call ({_text(chr(10))} call)*" if is_parallel else "call"
        begin = f"{_mark(OPEN, format)} {_text(chr(10))}"
        end = f"{_text(chr(10))} {_mark(CLOSE, format)}"
        lines.append(f"call: {begin} ({' | '.join(rules)}) {end}")
    else:
        start = " | ".join(rules)
    key = "arguments" if format.kind == "hermes" else "parameters"
    for rule, name in zip(rules, names, strict=True):
        head = '{"name": ' + json.dumps(name) + f', "{key}": '
        schema = tools[name]["function"].get("parameters") or ANY_OBJECT
        lines.append(f"{rule}: {_text(head)} {_json(schema, 'tools')} {_text('}')}")
    if form is not None:
        lines.append(f"form: {_json(form, 'response_format')}")
        start = f"{start} | form"
    lines.insert(1, f"start: {start}")
    return "\n".join(lines)


def _text(text: str) -> str:
    return json.dumps(text)


def _mark(mark: str, format: ToolFormat) -> str:
    return f"<[{format.control[mark]}]>" if mark in format.control else _text(mark)


def _json(schema: Any, param: str) -> str:
    if not isinstance(schema, dict):
        unsupported(param, "a schema must be an object")
    return "%json " + json_source({**schema, "x-guidance": dict(OPTIONS)}, param)

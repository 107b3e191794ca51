"""Finds calls of tools in a model's text as it comes."""

import json
import re
import secrets
from collections.abc import Sequence
from typing import Any

from farthing.upstreams.call import ToolDelta
from farthing.upstreams.tool_format import CLOSE, OPEN, ToolFormat

__all__ = ["HermesText", "LlamaText", "ToolText", "tool_text"]

CUT = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(.*)', re.DOTALL)
Found = tuple[str, tuple[ToolDelta, ...]]


class ToolText:
    """`push` gives the text that is certain to be no call, and the calls that are complete; `end` the rest. A call
    comes whole, in one delta. Where is_parallel is False, nothing is found after the first."""

    def __init__(self, *, is_parallel: bool) -> None:
        self.num_calls = 0
        self._is_parallel = is_parallel

    def push(self, text: str) -> Found:
        raise NotImplementedError

    def end(self, *, is_cut: bool) -> Found:
        """is_cut: the answer ended at its length, so a call may be half there; its name and what there is of the
        arguments are given then."""
        raise NotImplementedError

    @property
    def _is_full(self) -> bool:
        return self.num_calls > 0 and not self._is_parallel

    def _call(self, value: Any) -> ToolDelta | None:
        """None for what is no call."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        return self._delta(value["name"], arguments)

    def _delta(self, name: str, arguments: str) -> ToolDelta:
        self.num_calls += 1
        return ToolDelta(self.num_calls - 1, f"call_{secrets.token_hex(12)}", name, arguments)

    def _half(self, text: str) -> ToolDelta | None:
        found = CUT.match(text)
        return self._delta(found[1], found[2]) if found else None


class HermesText(ToolText):
    """White space around calls is not text of the answer: it is held until more text follows."""

    def __init__(self, *, is_parallel: bool) -> None:
        super().__init__(is_parallel=is_parallel)
        self._held = ""
        self._is_in_call = False

    def push(self, text: str) -> Found:
        self._held += text
        out: list[str] = []
        calls: list[ToolDelta] = []
        while not self._is_full:
            if self._is_in_call:
                inner, mark, rest = self._held.partition(CLOSE)
                if not mark:
                    break
                self._is_in_call, self._held = False, rest
                self._close(inner, mark, out, calls)
            else:
                before, mark, rest = self._held.partition(OPEN)
                if not mark:
                    break
                self._is_in_call, self._held = True, rest
                out.append(before.rstrip())
        if self._is_full:
            self._held = ""
        elif not self._is_in_call:
            size = _num_certain(self._held)
            out.append(self._held[:size])
            self._held = self._held[size:]
        return self._clean("".join(out)), tuple(calls)

    def end(self, *, is_cut: bool) -> Found:
        held, self._held = self._held, ""
        if self._is_full:
            return "", ()
        if not self._is_in_call:
            return (held if self.num_calls == 0 else held.rstrip()), ()
        out: list[str] = []
        calls: list[ToolDelta] = []
        if is_cut and _parse(held) is None and (half := self._half(held)) is not None:
            return "", (half,)
        self._close(held, "", out, calls)
        return "".join(out), tuple(calls)

    def _close(self, inner: str, mark: str, out: list[str], calls: list[ToolDelta]) -> None:
        call = self._call(_parse(inner))
        if call is None:
            out.append(f"{OPEN}{inner}{mark}")
        else:
            calls.append(call)

    def _clean(self, text: str) -> str:
        return text if self.num_calls == 0 or text.strip() else ""


class LlamaText(ToolText):
    """A call is the whole answer, so one that begins with a brace is held to its end."""

    def __init__(self, *, is_parallel: bool) -> None:
        super().__init__(is_parallel=is_parallel)
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> Found:
        self._held += text
        start = self._held.lstrip()
        self._is_text |= bool(start) and not start.startswith("{")
        if not self._is_text:
            return "", ()
        held, self._held = self._held, ""
        return held, ()

    def end(self, *, is_cut: bool) -> Found:
        held, self._held = self._held, ""
        values = _parse_several(held) if held.lstrip().startswith("{") else []
        if values and all(isinstance(value, dict) and isinstance(value.get("name"), str) for value in values):
            found = [self._call(value) for value in (values if self._is_parallel else values[:1])]
            return "", tuple(call for call in found if call is not None)
        if is_cut and (half := self._half(held)) is not None:
            return "", (half,)
        return held, ()


def tool_text(format: ToolFormat, *, is_parallel: bool) -> ToolText:
    return (HermesText if format.kind == "hermes" else LlamaText)(is_parallel=is_parallel)


def _num_certain(text: str) -> int:
    """How much of a text cannot belong to a call's mark, or to the white space before one."""
    size = next((n for n in range(min(len(OPEN) - 1, len(text)), 0, -1) if text.endswith(OPEN[:n])), 0)
    return len(text[: len(text) - size].rstrip())


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse_several(text: str) -> Sequence[Any]:
    """JSON values one after the other, with white space or semicolons between them; [] where that is not all."""
    values = []
    decoder = json.JSONDecoder()
    at = 0
    while at < len(text):
        if text[at].isspace() or text[at] == ";":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        values.append(value)
    return values

"""Why two prompts part: what changed between an earlier request and a later one, and what to do about it.

The place is known (which tokens differ); here the texts say what stands there: a clock, an id, the same things in
another order. Rules, not guesses: each looks at what both requests hold, and the first that fits is told.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.report.chat_requests import ChatRequest

__all__ = ["HINTS", "Culprit", "blame_messages", "blame_tools", "culprit", "likeness", "message_text"]

HINTS = {
    "first": "",
    "same": "",
    "appended": "",
    "earlier turn": "",
    "other conversation": "",
    "model": "a cache belongs to one model: send requests that share a prefix to the same one",
    "tools reordered": "send the tools in one fixed order, for instance sorted by name",
    "keys reordered": "write JSON with its keys in one fixed order, for instance sort_keys=True",
    "tools changed": "offer the same tools throughout and narrow them by tool_choice; they stand before the messages",
    "timestamp": "put it behind what stays the same (into the newest message), or make it as coarse as will do",
    "identifier": "put it behind what stays the same (into the newest message), or leave it out of the prompt",
    "whitespace": "build the text in one place, so that spaces and line ends are always the same",
    "reordered": "write lists and keys in one fixed order, for instance sorted",
    "system prompt": "keep the system prompt the same, and put what differs into a later message",
    "history truncated": "drop many old messages seldom instead of a few each turn: what follows is computed again",
    "history edited": "leave sent messages as they are and add to them; what stands behind an edit is computed again",
    "template": "",
}  # kind -> what to do, "" where nothing is wrong or nothing can be done

_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_TIMESTAMP = re.compile(
    rf"""\d{{4}}-\d\d?-\d\d?(?:[T\ ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?\ ?(?:Z|UTC|[+-]\d\d:?\d\d)?)?
    | \b\d{{1,2}}:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\ ?[ap]\.?m\b)?
    | \b\d{{1,4}}[./]\d{{1,2}}[./]\d{{1,4}}\b
    | \b\d{{1,2}}(?:st|nd|rd|th)?\ {_MONTH},?(?:\ \d{{4}})?
    | \b{_MONTH}\ \d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\ \d{{4}})?
    | \b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b
    | \b1[5-9]\d{{8}}(?:\d{{3}}){{0,3}}(?:\.\d+)?\b""",  # the last: seconds since 1970, or thousandths of them and less
    re.IGNORECASE | re.VERBOSE,
)
_IDENTIFIER = re.compile(
    r"""\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b
    | \b(?:0x)?(?=[a-f]*\d)[0-9a-f]{7,}\b
    | \b[a-z]+[-_](?=[a-z]*\d)[0-9a-z]{5,}\b
    | \b(?=[a-z_-]*\d)(?=[\d_-]*[a-z])[0-9a-z_-]{16,}(?![0-9a-z_-])""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBER = re.compile(r"\d+")
_WORD = re.compile(r"\w+")
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
_AROUND = 120  # characters on each side of the difference in which a value is looked for
_ALIKE = 0.5  # from this likeness on, two texts are versions of one


@dataclass(frozen=True)
class Culprit:
    """kind: a key of HINTS; what: one clause that says where and what; hint: what to do, "" where nothing is."""

    kind: str
    what: str
    hint: str


def culprit(kind: str, what: str) -> Culprit:
    return Culprit(kind, what, HINTS[kind])


def message_text(message: Mapping[str, Any]) -> str:
    """Content and tool calls of a message, as text."""
    calls = message.get("tool_calls")
    return (message.get("content") or "") + (_dump(calls) if calls else "")


def likeness(a: str, b: str) -> float:
    """0 to 1: the share of words that two texts have in common."""
    first, second = Counter(_WORD.findall(a)), Counter(_WORD.findall(b))
    return 2 * (first & second).total() / max(1, first.total() + second.total())


def blame_tools(before: Sequence[Any], now: Sequence[Any]) -> Culprit:
    """What changed between two lists of tools that are not the same."""
    sorted_before, sorted_now = ([_dump(tool, sort_keys=True) for tool in tools] for tools in (before, now))
    if sorted_before == sorted_now:
        return culprit("keys reordered", "the tools are the same, their keys stand in another order")
    if sorted(sorted_before) == sorted(sorted_now):
        return culprit("tools reordered", f"the same {len(now)} tools in another order")
    names_before, names_now = ([_tool_name(tool) for tool in tools] for tools in (before, now))
    gone = sorted(set(names_before) - set(names_now))
    new = sorted(set(names_now) - set(names_before))
    if gone or new:
        changes = [f"{verb}: {', '.join(names)}" for verb, names in (("gone", gone), ("new", new)) if names]
        return culprit("tools changed", f"other tools ({'; '.join(changes)})")
    for a, b in zip(sorted_before, sorted_now, strict=False):
        if a != b:
            return _volatile("the tools", a, b) or culprit("tools changed", "a tool is described differently")
    return culprit("tools changed", f"{len(now)} tools instead of {len(before)}")


def blame_messages(before: ChatRequest, now: ChatRequest) -> Culprit:
    """What changed between the messages of two requests that do not merely go on."""
    a, b = before.messages, now.messages
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if not _is_same(x, y)), None)
    if at is None:
        what = (
            "the messages are the same as far as both go; the chat template wrote them differently where more follows"
        )
        return culprit("template", what)
    where = f"message {at + 1} ({b[at]['role']})"
    if a[at]["role"] == b[at]["role"]:
        is_last = at + 1 == len(a)
        found = _blame_text(
            where, message_text(a[at]), message_text(b[at]), is_question=is_last and b[at]["role"] == "user"
        )
        if found is not None:
            return found
    return _blame_history(a, b, at, where)


def _blame_text(where: str, a: str, b: str, *, is_question: bool) -> Culprit | None:
    """Two versions of one text: white space, a clock, an id, another order. is_question: new texts are usual here."""
    if a.split() == b.split():
        return culprit("whitespace", f"{where} differs in white space only")
    if (found := _volatile(where, a, b, is_number_one=not is_question)) is not None:
        return found
    words_a, words_b = _WORD_OR_SIGN.findall(a), _WORD_OR_SIGN.findall(b)
    if len(words_a) > 3 and Counter(words_a) == Counter(words_b):
        return culprit("reordered", f"{where} has the same words in another order (keys, or a list)")
    return None


def _blame_history(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], at: int, where: str) -> Culprit:
    """The messages from `at` on: other ones, fewer, or new versions."""
    if _is_system(b[at]) and _is_behind(a[at], b, at):
        return culprit("system prompt", f"{where} is new")
    if _is_system(a[at]) and _is_behind(b[at], a, at):
        return culprit("system prompt", f"message {at + 1} ({a[at]['role']}) is gone")
    for j in range(at + 1, len(a)):
        if _is_same(a[j], b[at]):
            return culprit("history truncated", f"{j - at} messages before {where} are gone")
    if any(_is_same(a[at], later) for later in b[at + 1 :]):
        return culprit("history edited", f"{where} was put in before messages that had been sent")
    text_a, text_b = message_text(a[at]), message_text(b[at])
    is_kept_behind = any(_is_same(x, y) for x, y in zip(a[at + 1 :], b[at + 1 :], strict=False))
    is_version = is_kept_behind or likeness(text_a, text_b) >= _ALIKE
    if _is_system(a[at]) and _is_system(b[at]):
        return culprit("system prompt", f"{where} is another text") if is_version else _other(at)
    if len(text_b) < len(text_a) and text_b and (text_a.startswith(text_b) or text_a.endswith(text_b)):
        return culprit("history truncated", f"{where} was shortened")
    if at and (is_kept_behind or (is_version and at + 1 < len(a)) or b[at]["role"] == "assistant"):
        return culprit("history edited", f"{where} is not what was sent before")
    return _other(at)


def _other(at: int) -> Culprit:
    if not at:
        return culprit("other conversation", "nothing in common but what the template begins with")
    return culprit("other conversation", f"the first {at} messages are the same, then it is another conversation")


def _volatile(where: str, a: str, b: str, *, is_number_one: bool = True) -> Culprit | None:
    """A value that changes from request to request and stands where two versions of a text begin to differ."""
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    is_same_else = _masked(a) == _masked(b)
    if not is_same_else and likeness(a, b) < _ALIKE:
        return None
    for kind, name, pattern in (
        ("timestamp", "a timestamp", _TIMESTAMP),
        ("identifier", "an id", _IDENTIFIER),
        ("identifier", "a number", _NUMBER),
    ):
        if pattern is _NUMBER and not (is_number_one and is_same_else):
            continue
        old, new = _value_at(pattern, a, at), _value_at(pattern, b, at)
        if old is not None and new is not None and old != new:
            rest = "; the rest is the same" if is_same_else else ""
            return culprit(kind, f"{name} in {where}: {old} became {new}{rest}")
    return None


def _value_at(pattern: re.Pattern[str], text: str, at: int) -> str | None:
    """The value that covers, or ends at, a place in the text."""
    start = max(0, at - _AROUND)
    for match in pattern.finditer(text[: at + _AROUND], start):
        if match.start() <= at <= match.end():
            return match[0]
    return None


def _masked(text: str) -> str:
    for pattern in (_TIMESTAMP, _IDENTIFIER, _NUMBER):
        text = pattern.sub("\0", text)
    return text


def _is_same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a["role"] == b["role"] and message_text(a) == message_text(b)


def _is_behind(message: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], at: int) -> bool:
    return at + 1 < len(messages) and _is_same(message, messages[at + 1])


def _is_system(message: Mapping[str, Any]) -> bool:
    return message["role"] in ("system", "developer")


def _tool_name(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    return str(function.get("name", "?"))


def _dump(value: Any, *, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=sort_keys)

"""What a router reads of a call: the last thing the user said, and what its conversation is known by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from farthing.router.label import user_text
from farthing.upstreams.call import Call
from farthing.upstreams.estimate import num_choices

__all__ = ["Question", "read_question"]


@dataclass(frozen=True)
class Question:
    """stored_as: what this turn's conversation will be found by; found_as: what the turn before was stored as."""

    prompt: str
    num_choices: int
    has_tools: bool
    found_as: bytes | None = None
    stored_as: bytes | None = None


def read_question(call: Call, *, is_named: bool = True) -> Question:
    """is_named: whether its conversation is wanted. Raises UpstreamError (400) for an n that is not allowed."""
    body = call.body
    num, has_tools = num_choices(body), bool(body.get("tools"))
    if call.wire == "completions":
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            [prompt] = prompt
        return Question(prompt if isinstance(prompt, str) else "", num, has_tools)
    messages = body.get("messages")
    if not isinstance(messages, list):
        return Question("", num, has_tools)
    turns = [at for at, message in enumerate(messages) if user_text(message)]
    if not turns:
        return Question("", num, has_tools)
    names = _names(call, messages, turns) if is_named else []
    found_as = stored_as = names[-1] if names else None
    if turns[-1] == len(messages) - 1:  # a new turn; else results of tools: the same one goes on
        found_as = names[-2] if len(names) > 1 else None
    return Question(user_text(messages[turns[-1]]), num, has_tools, found_as, stored_as)


def _names(call: Call, messages: Sequence[Any], turns: Sequence[int]) -> list[bytes]:
    """A hash for each turn of the user's: of who asks and everything up to it. No text is kept; none where a body is no
    plain JSON."""
    domain = ["salt", call.salt] if call.salt else ["key", call.key_id]
    pieces: list[Any] = [[domain, call.wire, call.body.get("system"), call.body.get("tools")]]
    pieces += [messages[before + 1 : turn + 1] for before, turn in pairwise((-1, *turns))]
    names, last = [], b""
    try:
        for piece in pieces:
            last = hashlib.sha256(last + orjson.dumps(piece, option=orjson.OPT_SORT_KEYS)).digest()
            names.append(last)
    except orjson.JSONEncodeError:
        return []
    return names[1:]

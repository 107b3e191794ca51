"""What a router reads of a call: the last thing the user said, and what its conversation is known by."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

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


def read_question(call: Call) -> Question:
    """Raises UpstreamError (400) for an n that is not allowed."""
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
    turns = [at for at, message in enumerate(messages) if _user_text(message)]
    if not turns:
        return Question("", num, has_tools)
    stored_as = _name(call, messages[: turns[-1] + 1])
    found_as = None
    if turns[-1] < len(messages) - 1:  # results of tools: the same turn goes on
        found_as = stored_as
    elif len(turns) > 1:
        found_as = _name(call, messages[: turns[-2] + 1])
    return Question(_user_text(messages[turns[-1]]), num, has_tools, found_as, stored_as)


def _user_text(message: Any) -> str:
    """Empty for what is no user's message, or has no text in it (the results of tools, as Anthropic sends them)."""
    if not isinstance(message, Mapping) or message.get("role") != "user":
        return ""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _name(call: Call, messages: Sequence[Any]) -> bytes | None:
    """A hash: who asks, and everything up to a user's turn. No text is kept."""
    domain = ["salt", call.salt] if call.salt else ["key", call.key_id]
    whole = [domain, call.wire, call.body.get("system"), call.body.get("tools"), messages]
    try:
        return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).digest()
    except orjson.JSONEncodeError:
        return None

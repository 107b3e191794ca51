"""One line of labelled data: a prompt, and what is known of one model's answer or of several models'.

{"prompt": "…", "models": {"small": {"is_right": true, "answer": "…", "cost_usd": 0.0001}, "large": {"score": 0.9}}}
{"prompt": "…", "model": "small", "is_right": true, "answer": "…", "cost_pico": 120000}     as farthing compare --out
{"prompt": "…", "winner": "large", "models": ["small", "large"]}                            "tie": neither is better
{"messages": [{"role": "user", "content": "…"}], …}                    instead of a prompt: the last user's text is read
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any

from farthing.errors import InvalidRequest
from farthing.router.json_lines import json_object

__all__ = ["Label", "Line", "call_text", "read_line", "read_prompt", "user_text"]

TIE = "tie"
MAX_USD = Decimal(10**6)  # of one request


@dataclass(frozen=True)
class Label:
    """None: not known. score: 0 to 1, right and wrong are 1 and 0."""

    score: float | None
    answer: str | None = None
    cost_pico: int | None = None
    logprob_mean: float | None = None  # of the answer's tokens, as local models tell
    logprob_least: float | None = None


@dataclass(frozen=True)
class Line:
    prompt: str
    labels: Mapping[str, Label] = field(default_factory=dict)  # by model


def read_line(text: str) -> Line:
    """Raises InvalidRequest that says what is wrong; the caller knows the line's number."""
    row = json_object(text, has_decimals=True)
    prompt = _prompt(row)
    if "winner" in row:
        return Line(prompt, _preference(row))
    if "model" in row:
        return Line(prompt, {_name(row["model"]): _label(row)})
    models = row.get("models")
    if not isinstance(models, dict) or not models or not all(isinstance(entry, dict) for entry in models.values()):
        raise InvalidRequest('no label; give "models": {NAME: {"is_right": true}, …}, or "model" and "is_right"')
    return Line(prompt, {_name(name): _label(entry) for name, entry in models.items()})


def read_prompt(text: str) -> str:
    """Of a line that needs no label."""
    return _prompt(json_object(text, has_decimals=True))


def call_text(body: Mapping[str, Any]) -> str:
    """What a router reads of a request: the prompt, or the last thing the user said. "" where there is no text."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        prompt = body.get("prompt")
        return prompt if isinstance(prompt, str) else ""
    said = (user_text(message) for message in reversed(messages))
    return next((text for text in said if text), "")


def user_text(message: Any) -> str:
    """Empty for what is no user's message, or has no text in it (the results of tools, as Anthropic sends them)."""
    content = message.get("content") if isinstance(message, dict) and message.get("role") == "user" else None
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return content if isinstance(content, str) else "\n".join(text for text in texts if isinstance(text, str))


def _prompt(row: Mapping[str, Any]) -> str:
    if ("prompt" in row) == ("messages" in row):
        raise InvalidRequest("give either prompt or messages")
    prompt = call_text(row)
    if not prompt.strip():
        what = "prompt" if "prompt" in row else "messages"
        raise InvalidRequest(f"{what} has no text; give a string that is not empty, or messages with role and content")
    return prompt


def _preference(row: Mapping[str, Any]) -> dict[str, Label]:
    """The better answer is worth 1, the other 0; of equals each 0.5: a quality is then a share of contests won."""
    models, winner = row.get("models"), row["winner"]
    entries: Mapping[str, Any] = {}
    if isinstance(models, dict):
        entries, models = models, list(models)
    if models is None and isinstance(row.get("loser"), str):
        models = [winner, row["loser"]]
    if not isinstance(models, list) or len(models) != 2 or not all(isinstance(name, str) for name in models):
        raise InvalidRequest('a preference is between two: "winner": "b", "models": ["a", "b"]')
    if winner != TIE and winner not in models:
        raise InvalidRequest(f"winner is {str(winner)[:40]!r}; allowed: {', '.join(models)}, {TIE}")
    found = {}
    for name in models:
        score = 0.5 if winner == TIE else float(name == winner)
        entry = entries.get(name, {})
        found[_name(name)] = (
            Label(score, _answer(entry), _cost_pico(entry)) if isinstance(entry, dict) else Label(score)
        )
    if len(found) != 2:
        raise InvalidRequest("a preference is between two different models")
    return found


def _label(entry: Mapping[str, Any]) -> Label:
    logprobs = (_logprob(entry, name) for name in ("logprob_mean", "logprob_least"))
    return Label(_score(entry), _answer(entry), _cost_pico(entry), *logprobs)


def _score(entry: Mapping[str, Any]) -> float | None:
    is_right, score = entry.get("is_right"), entry.get("score")
    if is_right is not None and not isinstance(is_right, bool):
        raise InvalidRequest(f"is_right is {str(is_right)[:40]!r}; allowed: true or false (a score is a number 0 to 1)")
    if score is not None:
        is_number = not isinstance(score, bool) and isinstance(score, int | Decimal)
        if not is_number or not (isfinite(score) and 0 <= score <= 1):
            raise InvalidRequest(f"score is {str(score)[:40]!r}; allowed: a number, 0 to 1")
        return float(score)
    return None if is_right is None else float(is_right)


def _answer(entry: Mapping[str, Any]) -> str | None:
    answer = entry.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise InvalidRequest(f"answer is {type(answer).__name__}; allowed: a string")
    return answer


def _logprob(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not (isfinite(value) and value <= 0):
        raise InvalidRequest(f"{name} is {str(value)[:40]!r}; allowed: a logarithm of a probability, 0 or below")
    return float(value)


def _cost_pico(entry: Mapping[str, Any]) -> int | None:
    """To the nearest pico-dollar."""
    pico, usd = entry.get("cost_pico"), entry.get("cost_usd")
    if pico is not None and (isinstance(pico, bool) or not isinstance(pico, int) or not 0 <= pico <= MAX_USD * 10**12):
        raise InvalidRequest(f"cost_pico is {str(pico)[:40]!r}; allowed: whole pico-dollars, 0 or more")
    if usd is None:
        return None if pico is None else int(pico)
    is_number = not isinstance(usd, bool) and isinstance(usd, int | Decimal)
    if not is_number or not (isfinite(usd) and 0 <= usd <= MAX_USD):
        raise InvalidRequest(f"cost_usd is {str(usd)[:40]!r}; allowed: dollars, 0 to {MAX_USD:,}")
    found: int = round(usd * 10**12)
    return found


def _name(given: Any) -> str:
    if not isinstance(given, str) or not given or not given.isprintable() or len(given) > 200:
        raise InvalidRequest(f"a model is named {str(given)[:40]!r}; allowed: 1 to 200 printable characters")
    return given

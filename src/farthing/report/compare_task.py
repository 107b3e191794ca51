"""Labelled prompts as farthing compare reads them: one JSON object per line, an OpenAI chat request and its answer.

{"id": "q7", "prompt": "Capital of Peru?", "answer": "Lima"}
{"messages": [{"role": "user", "content": "…"}], "answer": ["yes"], "choices": ["yes", "no"]}
{"prompt": "6 · 7?", "answer": "42", "match": "number", "max_tokens": 20}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from farthing.errors import InvalidRequest
from farthing.report.compare_match import MATCHES, Match, check_answer, normalized
from farthing.router.json_lines import json_object, read_json_lines
from farthing.router.label import call_text

__all__ = ["TaskRow", "read_task"]

OWN = ("id", "prompt", "answer", "choices", "match")  # everything else is the request's
DROPPED = ("model", "stream", "stream_options")  # compare says them itself


@dataclass(frozen=True)
class TaskRow:
    id: str
    body: Mapping[str, Any]  # a chat request without its model
    answers: tuple[str, ...]  # any of them is right
    choices: tuple[str, ...] = ()
    match: Match = "normalized"

    @property
    def prompt(self) -> str:
        """What a router reads of it: the last thing the user said."""
        return call_text(self.body)


def read_task(path: Path, limit: int | None = None) -> list[TaskRow]:
    """The first `limit` rows. Raises InvalidRequest that names the lines that cannot be used."""
    ids: set[str] = set()

    def of_line(number: int, line: str) -> TaskRow:
        row = _row(number, line)
        if row.id in ids:
            raise InvalidRequest(f"id {row.id!r} is there twice")
        ids.add(row.id)
        return row

    return read_json_lines(path, of_line, 'write one per line: {"prompt": "…", "answer": "…"}', limit)


def _row(number: int, line: str) -> TaskRow:
    row = json_object(line)
    for key in row:
        near = get_close_matches(key, OWN, 1, 0.75)
        if key not in OWN and key != "metadata" and near:
            raise InvalidRequest(f"unknown key {key!r}; did you mean {near[0]!r}?")
    answers, choices = _texts(row, "answer"), _texts(row, "choices")
    if not answers:
        raise InvalidRequest("answer is missing; give a string, or a list of strings of which any is right")
    match = row.get("match", "normalized")
    if choices:
        _check_choices(row, answers, choices)
    elif match not in MATCHES:
        raise InvalidRequest(f"match is {match!r}; allowed: {', '.join(MATCHES)}")
    for answer in () if choices else answers:
        check_answer(answer, match)
    return TaskRow(_id(row, number), _body(row), answers, choices, match)


def _check_choices(row: Mapping[str, Any], answers: tuple[str, ...], choices: tuple[str, ...]) -> None:
    if "match" in row:
        raise InvalidRequest("match and choices exclude each other: an answer is one of the choices or it is wrong")
    spelled = [normalized(choice) for choice in choices]
    if not all(spelled) or len(set(spelled)) < len(spelled):
        raise InvalidRequest("choices must differ by more than case and punctuation, and have letters or digits")
    for answer in answers:
        if answer not in choices:
            raise InvalidRequest(f"answer {answer[:60]!r} is not among the choices")


def _id(row: Mapping[str, Any], number: int) -> str:
    given = row.get("id", f"line {number}")
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise InvalidRequest(f"id is {given!r}; allowed: a string or a whole number")
    return str(given)


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    if key == "choices" and (not isinstance(value, list) or len(items) < 2):
        raise InvalidRequest("choices must be a list of two strings or more")
    # A label that was written as a number means its digits.
    texts = [str(item) if type(item) in (int, float) else item for item in items]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise InvalidRequest(f"{key} is {str(value)[:60]!r}; allowed: strings that are not empty")
    return tuple(texts)


def _body(row: Mapping[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in row.items() if key not in (*OWN, *DROPPED)}
    prompt = row.get("prompt")
    if (prompt is None) == ("messages" not in row):
        raise InvalidRequest("give either messages or prompt")
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt:
            raise InvalidRequest("prompt must be a string that is not empty; several turns go into messages")
        body["messages"] = [{"role": "user", "content": prompt}]
    messages = body["messages"]
    is_list = isinstance(messages, list) and bool(messages)
    if not is_list or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
        raise InvalidRequest("messages must be a list of objects with role and content")
    if body.get("n", 1) != 1:
        raise InvalidRequest("n must be 1: one answer is compared")
    return body

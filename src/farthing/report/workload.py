"""Reads a workload: one OpenAI chat request per line (JSON Lines), every mistake named with its line and field."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from farthing.errors import InvalidRequest
from farthing.request import Message, Request, SamplingParams

__all__ = ["Workload", "built_in", "read_workload"]

ROLES = ("system", "user", "assistant")
# Fields that are read, and fields that do not change the answer and may stay; every other field is an error, because
# leaving it out silently would measure something else than was asked for.
READ = ("messages", "max_tokens", "max_completion_tokens", "temperature", "stop")
HARMLESS = ("model", "user", "metadata", "stream", "stream_options", "seed", "top_p")


@dataclass(frozen=True)
class Workload:
    """Requests in order, all greedy so that rows can be compared token for token; `notes` says what was replaced."""

    name: str
    requests: tuple[Request, ...]
    notes: tuple[str, ...] = ()


def built_in() -> Workload:
    """The 50 requests that come with farthing, written for it."""
    text = resources.files("farthing.report").joinpath("data", "workload.jsonl").read_text(encoding="utf-8")
    return _parse("built-in", text)


def read_workload(path: Path) -> Workload:
    """Raises InvalidRequest for a file that cannot be read and for any line that is not a request we can run."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path}: not UTF-8 text (byte {error.start}); give JSON Lines in UTF-8") from None
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); give a file of JSON Lines") from None
    return _parse(str(path), text)


def _parse(name: str, text: str) -> Workload:
    # Only \n ends a line: str.splitlines would also cut at U+2028, which may stand inside a JSON string.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise InvalidRequest(f"{name}: no request in it; write one OpenAI chat request per line (JSON)")
    requests, num_sampled, num_unlimited = [], 0, 0
    for number, line in lines:
        where = f"{name}, line {number}"
        body = _object(where, line)
        requests.append(_request(where, body))
        num_sampled += body.get("temperature", 1) != 0
        num_unlimited += body.get("max_tokens") is None and body.get("max_completion_tokens") is None
    notes = []
    if num_sampled:
        notes.append(f"{num_sampled} requests ask for sampling; all rows decode greedily, to compare outputs")
    if num_unlimited:
        notes.append(f"{num_unlimited} requests have no max_tokens; {SamplingParams().max_tokens} is used")
    return Workload(name, tuple(requests), tuple(notes))


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        body = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise InvalidRequest(f"{where}: JSON nested too deeply") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"{where}: {type(body).__name__} instead of an object with 'messages'")
    for key in body:
        if key == "n" and body[key] == 1:
            continue
        if key not in READ and key not in HARMLESS:
            raise InvalidRequest(f"{where}: field {key!r} is not supported; allowed: {', '.join((*READ, *HARMLESS))}")
    return body


def _request(where: str, body: dict[str, Any]) -> Request:
    max_tokens = body.get("max_tokens")
    if max_tokens is None:
        max_tokens = body.get("max_completion_tokens")
    if max_tokens is None:
        max_tokens = SamplingParams().max_tokens
    if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
        raise InvalidRequest(f"{where}: max_tokens is {max_tokens!r}; allowed: a whole number, 1 or more")
    temperature = body.get("temperature", 1)
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature <= 2:
        raise InvalidRequest(f"{where}: temperature is {temperature!r}; allowed: 0 to 2")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(f"{where}: 'messages' is missing or empty; give a list of {{role, content}}")
    parsed = tuple(_message(f"{where}, message {index}", message) for index, message in enumerate(messages, 1))
    stop = tuple(_stop(where, body.get("stop")))
    return Request(parsed, params=SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=stop))


def _message(where: str, message: object) -> Message:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where}: {type(message).__name__} instead of an object with 'role' and 'content'")
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}: role is {role!r}; allowed: {', '.join(ROLES)}")
    for key in message:
        if key not in ("role", "content", "name"):
            raise InvalidRequest(f"{where}: field {key!r} is not supported; allowed: role, content, name")
    return Message(str(role), _content(where, message.get("content")))


def _content(where: str, content: object) -> str:
    """A string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}: content is {type(content).__name__}; allowed: a string or a list of text parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(f"{where}: content part of type {kind!r}; allowed: text (no images, audio or files)")
        texts.append(part["text"])
    return "".join(texts)


def _stop(where: str, stop: object) -> Iterator[str]:
    if stop is None:
        return
    for item in stop if isinstance(stop, list) else [stop]:
        if not isinstance(item, str) or not item:
            raise InvalidRequest(f"{where}: stop holds {item!r}; allowed: non-empty strings")
        yield item

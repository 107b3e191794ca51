"""OpenAI's answers, streamed or whole, chat or completions, in all the dialects that are spoken, as Chunks."""

from collections.abc import Mapping
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams.call import Chunk, TokenLogprob, ToolDelta
from farthing.upstreams.hosted import served_model
from farthing.upstreams.http_errors import reported
from farthing.upstreams.sse import Event
from farthing.upstreams.usage_wire import malformed, openai_usage, parse_json, timings_usage

__all__ = ["OpenAIReader"]

FINISHES = {"function_call": "tool_calls", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop"}
KNOWN_FINISHES = ("stop", "length", "tool_calls", "content_filter")
MAX_INDEX = 4096


class OpenAIReader:
    """is_raw: the call's wire is the provider's, so a chunk carries its JSON, one choice each and without `usage` (the
    server tells that, if its client asked). A chunk without choices gives no Chunk: it is usage, or a filter's verdict.
    """

    def __init__(self, name: str, secret: str | None, *, is_raw: bool) -> None:
        self.usage: Usage | None = None
        self.model = ""
        self.is_complete = False
        self.is_done = False
        self._name = name
        self._secret = secret
        self._is_raw = is_raw

    def event(self, event: Event) -> list[Chunk]:
        if event.data == b"[DONE]":
            self.is_complete = self.is_done = True
            return []
        body = parse_json(event.data)
        if not isinstance(body, dict):
            raise malformed("an event that is no JSON object")
        if event.name == "error" and "error" not in body:
            body = {"error": body}
        choices = self._read(body)
        body.pop("usage", None)
        chunks = []
        for choice in choices:
            if len(choices) > 1:
                body = {**body, "choices": [choice]}
            chunks.append(self._chunk(choice, "delta", body if self._is_raw else None))
        return chunks

    def whole(self, body: dict[str, Any]) -> list[Chunk]:
        choices = self._read(body)
        if not choices:
            raise malformed("no choices")
        if any("text" not in choice and choice.get("message") is None for choice in choices):
            raise malformed("a choice without its message")
        return [self._chunk(choice, "message", None) for choice in choices]

    def _read(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Notes model and usage, and gives the choices."""
        if body.get("error"):
            raise reported(self._name, body, self._secret)
        if not self.model:
            self.model = served_model(body.get("model"))
        choices = body.get("choices")
        if choices is None:
            choices = []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise malformed("choices is no list of objects")
        usage = openai_usage(body.get("usage"))
        if usage is None and "x_groq" in body and isinstance(body["x_groq"], Mapping):
            usage = openai_usage(body["x_groq"].get("usage"))
        if usage is None and len(choices) == 1 and "usage" in choices[0]:  # Moonshot's place for it
            usage = openai_usage(choices[0]["usage"])
        if usage is None and self.usage is None and "timings" in body:
            usage = timings_usage(body["timings"])
        if usage is not None:
            self.usage = usage
        return choices

    def _chunk(self, choice: dict[str, Any], part: str, raw: dict[str, Any] | None) -> Chunk:
        index = choice.get("index", 0)
        if not isinstance(index, int) or not 0 <= index <= MAX_INDEX:
            raise malformed("choices.index is no small number")
        finish = self._finish(choice.get("finish_reason"))
        logprobs = _logprobs(choice["logprobs"]) if choice.get("logprobs") else ()
        said = choice.get(part)
        if said is None:  # completions
            return Chunk(_text(choice.get("text")), index, finish, (), logprobs, "", raw)
        if not isinstance(said, dict):
            raise malformed(f"choices.{part} is no object")
        content = said.get("content")
        reasoning = said.get("reasoning_content") or said.get("reasoning")
        tools = _tools(said["tool_calls"]) if said.get("tool_calls") else ()
        if isinstance(content, list):
            content, thought = _parts(content)
            reasoning = reasoning or thought
        if content is None and said.get("refusal"):
            content = said["refusal"]
        return Chunk(_text(content), index, finish, tools, logprobs, _text(reasoning), raw)

    def _finish(self, finish: object) -> str | None:
        if finish is None or finish == "":
            return None
        if finish == "error":
            raise reported(self._name, {"error": {"message": "the answer ended in an error"}}, self._secret)
        self.is_complete = True
        if not isinstance(finish, str):
            raise malformed("choices.finish_reason is no text")
        finish = FINISHES.get(finish, finish)
        return finish if finish in KNOWN_FINISHES else "stop"


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise malformed("content is no text")
    return value


def _parts(parts: list[Any]) -> tuple[str, str]:
    """(text, reasoning) of content in parts, as Mistral's reasoning models give it."""
    texts, thoughts = [], []
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(_text(part.get("text")))
        elif isinstance(part, dict) and isinstance(part.get("thinking"), list):
            thoughts.append(_parts(part["thinking"])[0])
    return "".join(texts), "".join(thoughts)


def _tools(calls: object) -> tuple[ToolDelta, ...]:
    if not isinstance(calls, list):
        raise malformed("tool_calls is no list")
    deltas = []
    for at, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise malformed("a tool call without its function")
        index = call.get("index", at)
        if not isinstance(index, int) or not 0 <= index <= MAX_INDEX:
            raise malformed("tool_calls.index is no small number")
        name, arguments = _text(function.get("name")), _text(function.get("arguments"))
        deltas.append(ToolDelta(index, _text(call.get("id")), name, arguments))
    return tuple(deltas)


def _logprobs(logprobs: object) -> tuple[TokenLogprob, ...]:
    """Of chat (a list of tokens) and of completions (three lists side by side)."""
    if not isinstance(logprobs, dict):
        raise malformed("logprobs is no object")
    tokens = logprobs.get("content")
    try:
        if isinstance(tokens, list):
            return tuple(
                TokenLogprob(*_token(token), tuple(_token(top) for top in token.get("top_logprobs") or ()))
                for token in tokens
            )
        names, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
        tops = logprobs.get("top_logprobs") or [None] * len(names)
        return tuple(
            TokenLogprob(name, name.encode(), float(value or 0.0), _tops(top))
            for name, value, top in zip(names, values, tops, strict=False)
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise malformed("logprobs of another form") from error


def _token(token: dict[str, Any]) -> tuple[str, bytes, float]:
    data = token.get("bytes")
    return token["token"], bytes(data) if data is not None else token["token"].encode(), float(token["logprob"])


def _tops(top: dict[str, float] | None) -> tuple[tuple[str, bytes, float], ...]:
    return tuple((name, name.encode(), float(value)) for name, value in (top or {}).items())

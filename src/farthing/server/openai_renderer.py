"""What chat completions and completions have in common on the wire. A stream's events are put together by hand from a
prefix that is made once: the JSON around a token is longer than the token, and there may be thousands a second."""

from collections.abc import Sequence
from typing import Any

import orjson

from farthing import __version__
from farthing.economics.usage import Usage
from farthing.server.answer_cost import costs_usd
from farthing.server.api import Asked, Ending
from farthing.server.errors import openai_error_body
from farthing.upstreams import Chunk, Tally, UpstreamError

__all__ = ["OpenAIRenderer", "json_text", "token_text"]

Json = dict[str, Any]
FINGERPRINT = f"farthing_{__version__}"


def json_text(text: str) -> bytes:
    """A text as JSON; half a surrogate pair is no character and becomes U+FFFD."""
    try:
        return orjson.dumps(text)
    except orjson.JSONEncodeError:
        return orjson.dumps(text.encode("utf-8", "replace").decode())


def token_text(token: str) -> str:
    return token if token.isascii() else token.encode("utf-8", "replace").decode()


class OpenAIRenderer:
    """Serves one answer (see api.Renderer). The two APIs say how a choice looks: _piece, streamed, and _choice, whole.

    A provider's own chunks are handed on with the model's name as the client gave it and, at the end only, its usage.
    """

    chunk_object = whole_object = ""

    def __init__(self, asked: Asked, answer_id: str, created_s: int) -> None:
        options = asked.body.get("stream_options") or {}
        self._is_usage_asked = bool(options.get("include_usage"))
        self._model = asked.model
        self._common: Json = {"id": answer_id, "object": self.chunk_object, "created": created_s, "model": asked.model}
        self._common["system_fingerprint"] = FINGERPRINT
        self._head = b"data: " + orjson.dumps(self._common)[:-1] + b',"choices":[{"index":'
        self._tail = b'}],"usage":null}\n\n' if self._is_usage_asked else b"}]}\n\n"
        self._begun: set[int] = set()  # choices that had an event
        self._raw_end: Json | None = None  # the provider's chunk that had usage

    def start(self, tally: Tally) -> bytes:  # noqa: ARG002 - the first event of each choice says all there is to say
        return b""

    def chunk(self, chunk: Chunk) -> bytes:
        if chunk.raw is not None:
            return self._raw(chunk.raw)
        return self._events(chunk)

    def end(self, ending: Ending) -> bytes:
        if not self._is_usage_asked:
            return b"data: [DONE]\n\n"
        raw = self._raw_end or {}
        usage = self._usage(raw.get("usage"), ending)
        last = {**self._common, **raw, "model": self._model, "choices": [], "usage": usage}
        return b"data: " + orjson.dumps(last) + b"\n\ndata: [DONE]\n\n"

    def failed(self, error: UpstreamError) -> bytes:
        return b"data: " + orjson.dumps(openai_error_body(error)) + b"\n\n"

    def whole(self, chunks: Sequence[Chunk], ending: Ending) -> Json:
        whole = ending.tally.whole
        if whole is not None:
            return {**whole, "model": self._model, "usage": self._usage(whole.get("usage"), ending)}
        choices: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            choices.setdefault(chunk.index, []).append(chunk)
        return {
            **self._common,
            "object": self.whole_object,
            "choices": [self._choice(index, choices[index]) for index in sorted(choices)],
            "usage": self._usage(None, ending),
        }

    def _events(self, chunk: Chunk) -> bytes:
        raise NotImplementedError

    def _choice(self, index: int, chunks: Sequence[Chunk]) -> Json:
        raise NotImplementedError

    def _event(self, index: int, middle: bytes, finish_reason: str | None) -> bytes:
        """middle is what stands between index and finish_reason: b',"text":"x","logprobs":null'."""
        reason = b"null" if finish_reason is None else json_text(finish_reason)
        return b'%s%d%s,"finish_reason":%s%s' % (self._head, index, middle, reason, self._tail)

    def _raw(self, raw: Json) -> bytes:
        """A provider's chunk. Its id and its own fields are kept for the last chunk, which is ours to write."""
        document = {**raw, "model": self._model}
        if "id" in raw:
            self._common["id"] = raw["id"]
        if raw.get("usage") is not None:
            self._raw_end = raw
        document.pop("usage", None)
        choices = raw.get("choices")
        if not choices and raw.get("usage") is not None:
            return b""
        if isinstance(choices, list):
            self._begun.update(choice.get("index", 0) for choice in choices if isinstance(choice, dict))
        if self._is_usage_asked:
            document["usage"] = None
        return b"data: " + orjson.dumps(document) + b"\n\n"

    def _usage(self, provider: Json | None, ending: Ending) -> Json | None:
        """Usage with its cost; the provider's own object where there is one. None where nobody knows what was used."""
        tally = ending.tally
        if not isinstance(provider, dict):
            if tally.usage_source == "unavailable":
                return None
            provider = _usage_object(tally.usage)
        usage = {**provider, **costs_usd(ending.receipts)}
        if tally.is_cut:
            usage["ended_by"] = "budget"
        return usage


def _usage_object(usage: Usage) -> Json:
    prompt = {"cached_tokens": usage.cache_read_tokens}
    if usage.cache_write_tokens:
        prompt["cache_write_tokens"] = usage.cache_write_tokens
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

"""OpenAI's older completions: POST /v1/completions."""

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from farthing.server import fields
from farthing.server.api import Asked
from farthing.server.errors import openai_error_body
from farthing.server.openai_renderer import Json, OpenAIRenderer, json_text, token_text
from farthing.server.openai_request import check_common
from farthing.upstreams import Chunk, TokenLogprob, UpstreamError

__all__ = ["Completions"]


class Completions:
    endpoint = "completions"
    path = "/v1/completions"

    def parse(self, body: Json) -> Asked:
        _check_prompt(body.get("prompt"))
        return check_common("completions", body)

    def renderer(self, asked: Asked, answer_id: str, created_s: int) -> "CompletionsRenderer":
        return CompletionsRenderer(asked, f"cmpl-{answer_id}", created_s)

    def error_body(self, error: UpstreamError, request_id: str) -> Json:  # noqa: ARG002 - it stands in a header
        return openai_error_body(error)


def _check_prompt(prompt: Any) -> None:
    """A text, token ids, or a list of either."""
    if prompt is None:
        raise fields.invalid("prompt is missing; give a text", "prompt", "missing_required_parameter")
    if isinstance(prompt, str):
        return
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt) or _are_ids(prompt):
            return
        if all(isinstance(item, list) and item and _are_ids(item) for item in prompt):
            return
    allowed = "a text, a list of texts, a list of token ids, or a list of those; not empty"
    raise fields.invalid(f"prompt is a {type(prompt).__name__} that cannot be read; allowed: {allowed}", "prompt")


def _are_ids(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items)


class CompletionsRenderer(OpenAIRenderer):
    chunk_object = whole_object = "text_completion"

    def __init__(self, asked: Asked, answer_id: str, created_s: int) -> None:
        super().__init__(asked, answer_id, created_s)
        self._offsets: dict[int, int] = {}  # where the next token of a choice begins, in characters

    def _events(self, chunk: Chunk) -> bytes:
        if not (chunk.text or chunk.logprobs or chunk.finish_reason):
            return b""
        self._begun.add(chunk.index)
        logprobs = orjson.dumps(self._logprobs(chunk.index, chunk.logprobs)) if chunk.logprobs else b"null"
        middle = b',"text":%s,"logprobs":%s' % (json_text(chunk.text), logprobs)
        return self._event(chunk.index, middle, chunk.finish_reason)

    def _choice(self, index: int, chunks: Sequence[Chunk]) -> Json:
        logprobs = [logprob for chunk in chunks for logprob in chunk.logprobs]
        return {
            "index": index,
            "text": token_text("".join(chunk.text for chunk in chunks)),
            "logprobs": self._logprobs(index, logprobs) if logprobs else None,
            "finish_reason": next((chunk.finish_reason for chunk in reversed(chunks) if chunk.finish_reason), "stop"),
        }

    def _logprobs(self, index: int, logprobs: Iterable[TokenLogprob]) -> Json:
        offset = self._offsets.get(index, 0)
        tokens, values, tops, offsets = [], [], [], []
        for entry in logprobs:
            tokens.append(_name(entry.token, entry.data))
            values.append(max(entry.logprob, -9999.0))
            tops.append({_name(token, data): max(logprob, -9999.0) for token, data, logprob in entry.top} or None)
            offsets.append(offset)
            # Characters begin with the bytes that continue none; a token may be half a character.
            offset += sum(byte & 0xC0 != 0x80 for byte in entry.data)
        self._offsets[index] = offset
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def _name(token: str, data: bytes) -> str:
    """A token's text; one that is no whole character by its bytes, so that two of them keep apart."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
    return token_text(token)

"""OpenAI's completions: a prompt that is continued as it stands."""

from collections.abc import Mapping
from typing import Any

from farthing.upstreams.asked import MAX_CHOICES, UNBOUNDED, Asked, sampling
from farthing.upstreams.body import Body, unsupported

__all__ = ["read_completion"]

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's


def read_completion(fields: Mapping[str, Any]) -> Asked:
    """Raises UpstreamError (400) for what is not allowed or not supported."""
    body = Body(fields)
    _ignore(body)
    best_of = body.integer("best_of", 1, MAX_CHOICES)
    n = body.integer("n", 1, MAX_CHOICES) or 1
    if best_of is not None and best_of > 1:
        unsupported("best_of", "only 1 is supported: every choice that is computed is returned; use n")
    body.only("echo", False, "the prompt is not repeated in the answer")
    body.only("suffix", "", "this model continues text and cannot fill it in")
    logprobs = body.take("logprobs")
    if logprobs is not None and type(logprobs) is not bool:
        logprobs = body.integer("logprobs", 0, 20)
    elif logprobs is not None:
        body.refuse("logprobs", "allowed: an integer from 0 to 20")
    max_tokens = body.integer("max_tokens", 1, UNBOUNDED)
    asked = Asked(
        params=sampling(body, logprobs),
        max_tokens=DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        n=n,
        prompts=_prompts(body),
    )
    body.end()
    if asked.n * len(asked.prompts) > MAX_PROMPTS:
        body.refuse("n", f"{asked.n} for each of {len(asked.prompts)} prompts; allowed: {MAX_PROMPTS} in all")
    return asked


def _ignore(body: Body) -> None:
    """What belongs to the call and not to the answer; the server has read it."""
    for name in ("model", "stream", "stream_options", "user", "metadata"):
        body.take(name)


def _prompts(body: Body) -> tuple[str | tuple[int, ...], ...]:
    """A string, several, token ids, or several lists of them."""
    value = body.take("prompt")
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return (_ids(body, value),)
        if len(value) > MAX_PROMPTS:
            body.refuse("prompt", f"has {len(value)} prompts; allowed: {MAX_PROMPTS}")
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if all(isinstance(item, list) and item and all(type(id) is int for id in item) for item in value):
            return tuple(_ids(body, item) for item in value)
    body.refuse("prompt", "allowed: a string, an array of strings, token ids, or an array of arrays of token ids")


def _ids(body: Body, ids: list[int]) -> tuple[int, ...]:
    if min(ids) < 0 or max(ids) >= 2**31:
        body.refuse("prompt", "token ids are from 0 up to the vocabulary's size")
    return tuple(ids)

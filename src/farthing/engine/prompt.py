"""From a request to the token ids that are computed: the chat template, what is public, and what cannot be."""

from collections.abc import Sequence
from typing import NamedTuple

from farthing.errors import CorruptModel, InvalidRequest
from farthing.models import Model
from farthing.request import Request, SamplingParams

__all__ = ["Prompt", "check_bias", "encode", "encode_prefix", "num_common"]


class Prompt(NamedTuple):
    """Token ids; under which salt their pages are found again; how many of the first are found under every salt."""

    token_ids: list[int]
    salt: str
    num_public: int


def encode(model: Model, request: Request) -> Prompt:
    """The whole prompt, ready for the answer. Raises InvalidRequest for ids that do not exist."""
    return _encode(model, request, add_generation_prompt=True)


def encode_prefix(model: Model, request: Request, page_size: int) -> Prompt:
    """A prompt as the beginning of others, in whole pages: messages without the answer's opening.

    Raises InvalidRequest where it does not fill a page.
    """
    prompt = _encode(model, request, add_generation_prompt=False)
    num_tokens = len(prompt.token_ids)
    num_kept = num_tokens - num_tokens % page_size
    if not num_kept:
        raise InvalidRequest(f"the prefix has {num_tokens} tokens; only whole pages of {page_size} can be pinned")
    return Prompt(prompt.token_ids[:num_kept], prompt.salt, min(prompt.num_public, num_kept))


def _encode(model: Model, request: Request, *, add_generation_prompt: bool) -> Prompt:
    token_ids, num_public = list(request.token_ids), request.num_public_tokens
    if request.messages:
        token_ids = model.encode_chat(request.messages, add_generation_prompt=add_generation_prompt)
        num_public = _num_public(model, request, token_ids)
    vocab_size = model.config.vocab_size
    if not token_ids or min(token_ids) < 0 or max(token_ids) >= vocab_size:
        raise InvalidRequest(f"the prompt needs one token id or more, each from 0 to {vocab_size - 1}")
    return Prompt(token_ids, request.salt, num_public)


def _num_public(model: Model, request: Request, token_ids: list[int]) -> int:
    """How far token_ids are those of the public messages alone: so far, nothing of the other messages is in them.

    A template may write what comes first differently where more follows, or refuse these messages alone (one that
    wants a user's message); then less is public, or nothing.
    """
    if not request.num_public_messages:
        return 0
    try:
        public = model.encode_chat(request.messages[: request.num_public_messages], add_generation_prompt=False)
    except (InvalidRequest, CorruptModel):
        return 0
    return num_common(public, token_ids)


def num_common(some: Sequence[int], others: Sequence[int]) -> int:
    """With how many tokens both begin."""
    differing = (i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b)
    return next(differing, min(len(some), len(others)))


def check_bias(model: Model, params: SamplingParams) -> None:
    """Raises InvalidRequest for a bias of a token that does not exist."""
    vocab_size = model.config.vocab_size
    for token_id, _ in params.logit_bias:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(f"logit_bias names token {token_id}; allowed: 0 to {vocab_size - 1}")

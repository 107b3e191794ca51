"""From what a client asked to requests for an engine: chat template, token ids, and how long the answer may become."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.errors import CorruptModel, InvalidRequest
from farthing.request import Constraint, Request
from farthing.upstreams.asked import Asked
from farthing.upstreams.call import Call
from farthing.upstreams.errors import UpstreamError

if TYPE_CHECKING:
    from farthing.models import Model
    from farthing.models.tokenizer import Tokenizer

__all__ = ["Prepared", "prepare"]

GOLDEN = 0x9E3779B97F4A7C15  # an odd number without pattern: the seeds of all choices differ


@dataclass(frozen=True)
class Prepared:
    asked: Asked
    requests: tuple[Request, ...]  # asked.n for each prompt
    most: Usage  # that they can use together
    is_capped: bool  # whether max_output_tokens, and not what was asked, limits the answer
    tokenizer: "Tokenizer"


def prepare(
    model: "Model", max_len: int, call: Call, asked: Asked, make_constraint: Callable[[], Constraint] | None
) -> Prepared:
    """max_len: of prompt and answer together. Takes milliseconds for long prompts: not for the event loop.

    Raises UpstreamError for a prompt that does not fit, or that the chat template refuses.
    """
    prompts = _prompts(model, call, asked)
    num_choices = asked.n * len(prompts)
    share = None if call.max_output_tokens is None else call.max_output_tokens // num_choices
    if share == 0:
        raise UpstreamError(
            f"{num_choices} answers are asked for, and the budget leaves {call.max_output_tokens} tokens for all",
            status=429,
            code="insufficient_quota",
        )
    requests: list[Request] = []
    num_most = 0
    is_capped = False
    for token_ids, num_public in prompts:
        wanted = _room(len(token_ids), max_len)
        if asked.max_tokens is not None:
            wanted = min(wanted, asked.max_tokens)
        if share is not None and share < wanted:
            wanted, is_capped = share, True
        num_most += asked.n * wanted
        for choice in range(asked.n):
            seed = asked.params.seed
            seed = seed if seed is None else (seed + choice * GOLDEN) % 2**64
            requests.append(
                Request(
                    token_ids=token_ids,
                    params=replace(asked.params, max_tokens=wanted, seed=seed),
                    salt=call.salt,
                    num_public_tokens=num_public,
                    make_constraint=make_constraint,
                )
            )
    num_input = sum(len(token_ids) for token_ids, _ in prompts)
    most = Usage(input_tokens=num_input, output_tokens=num_most)
    return Prepared(asked, tuple(requests), most, is_capped, model.tokenizer)


def _room(num_tokens: int, max_len: int) -> int:
    if num_tokens >= max_len:
        raise UpstreamError(
            f"the prompt has {num_tokens} tokens; this model holds {max_len}, one of them for the answer at least: "
            "shorten it",
            status=400,
            code="context_length_exceeded",
            param="messages",
        )
    return max_len - num_tokens


def _prompts(model: "Model", call: Call, asked: Asked) -> list[tuple[tuple[int, ...], int]]:
    """Token ids of each prompt, and how many of the first are public."""
    from farthing.engine.prompt import num_common
    from farthing.models.template import encode_chat

    tokenizer, vocab_size = model.tokenizer, model.config.vocab_size
    if not asked.messages:
        ids = [tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in asked.prompts]
        for prompt in ids:
            if not prompt or max(prompt) >= vocab_size:
                what = f"is empty; give one token or more, each from 0 to {vocab_size - 1}"
                raise UpstreamError(f"prompt: {what}", status=400, code="invalid_value", param="prompt")
        return [(tuple(prompt), 0) for prompt in ids]
    tools = list(asked.tools) or None
    try:
        token_ids = encode_chat(tokenizer, asked.messages, tools=tools)
    except InvalidRequest as error:
        raise UpstreamError(str(error), status=400, code="invalid_value", param="messages") from None
    except CorruptModel as error:
        raise UpstreamError(str(error), status=500, code="model_error") from None
    num_public = 0
    if call.num_public_messages:
        # Without tools: they are the client's own, and no part of what all are given.
        public = asked.messages[: call.num_public_messages]
        try:
            num_public = num_common(encode_chat(tokenizer, public, add_generation_prompt=False), token_ids)
        except (InvalidRequest, CorruptModel):
            num_public = 0
    return [(tuple(token_ids), num_public)]

"""From what a client asked to requests for an engine: chat template, token ids, and how long the answer may become."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from farthing.economics.usage import Usage
from farthing.errors import CapacityError, CorruptModel, InvalidRequest
from farthing.request import Constraint, Request
from farthing.upstreams.asked import Asked
from farthing.upstreams.body import refuse, unsupported
from farthing.upstreams.call import Call
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.tool_format import CLOSE, ToolFormat

if TYPE_CHECKING:
    from farthing.models import Model
    from farthing.models.tokenizer import Tokenizer
    from farthing.upstreams.grammar import Grammar, GrammarConstraint

__all__ = ["Encoded", "Prepared", "encode", "prepare"]

GOLDEN = 0x9E3779B97F4A7C15  # an odd number without pattern: the seeds of all choices differ


@dataclass(frozen=True)
class Encoded:
    """What takes long, done: prompts as token ids with the number of public ones, the grammar compiled."""

    asked: Asked
    prompts: tuple[tuple[tuple[int, ...], int], ...]
    tokenizer: "Tokenizer"
    grammar: "Grammar | None" = None
    tools: ToolFormat | None = None  # where calls of tools are to be found in the text


@dataclass(frozen=True)
class Prepared:
    """`constraints` are those of the choices, from when the requests are submitted on."""

    encoded: Encoded
    requests: tuple[Request, ...]  # asked.n for each prompt
    most: Usage  # that they can use together
    is_capped: bool  # whether max_output_tokens, and not what was asked, limits the answer
    constraints: "list[GrammarConstraint]"


def prepare(
    encoded: Encoded, max_len: int, max_output_tokens: int | None, salt: str, *, wants_hidden: bool = False
) -> Prepared:
    """max_len: of prompt and answer together. Raises UpstreamError for a prompt that does not fit, an answer
    that no prompt leaves room for, and a budget that leaves nothing."""
    asked = encoded.asked
    num_choices = asked.n * len(encoded.prompts)
    share = None if max_output_tokens is None else max_output_tokens // num_choices
    if share is not None and share < 1:
        raise UpstreamError(
            f"{num_choices} answers are asked for, and the budget leaves {max_output_tokens} tokens for all",
            status=429,
            code="insufficient_quota",
        )
    params = asked.params
    if encoded.tools is not None and not asked.is_parallel:
        params = replace(params, stop=(*params.stop, CLOSE))  # the first call ends the answer
    constraints: list[GrammarConstraint] = []
    make_constraint = None if encoded.grammar is None else _Maker(encoded.grammar, constraints)
    requests: list[Request] = []
    num_input = num_most = 0
    is_capped = False
    for token_ids, num_public in encoded.prompts:
        wanted = _room(asked, len(token_ids), max_len)
        if share is not None and share < wanted:
            wanted, is_capped = share, True
        num_input += len(token_ids)
        num_most += asked.n * wanted
        for choice in range(asked.n):
            seed = None if params.seed is None else (params.seed + choice * GOLDEN) % 2**64
            requests.append(
                Request(
                    token_ids=token_ids,
                    params=replace(params, max_tokens=wanted, seed=seed),
                    salt=salt,
                    num_public_tokens=num_public,
                    make_constraint=make_constraint,
                    wants_hidden=wants_hidden,
                )
            )
    return Prepared(encoded, tuple(requests), Usage(num_input, 0, num_most), is_capped, constraints)


class _Maker:
    """Makes the constraint of each choice, and notes it: whoever reads the answer asks it how it ended."""

    def __init__(self, grammar: "Grammar", made: "list[GrammarConstraint]") -> None:
        self._grammar, self._made = grammar, made

    def __call__(self) -> Constraint:
        self._made.append(self._grammar())
        return self._made[-1]


def _room(asked: Asked, num_tokens: int, max_len: int) -> int:
    """How long an answer may become. What is asked for ends where the context does, but no answer can be longer than
    the context itself: who asks for that is told."""
    if num_tokens >= max_len:
        raise _too_long(
            f"the prompt has {num_tokens} tokens; this model holds {max_len}, one of them for the answer at least: "
            "shorten it",
            asked,
        )
    if asked.max_tokens is not None and asked.max_tokens > max_len:
        refuse(
            asked.length_param,
            f"is {asked.max_tokens}; this model holds {max_len} tokens, prompt and answer together: give no more",
        )
    room = max_len - num_tokens
    return room if asked.max_tokens is None else min(room, asked.max_tokens)


def _too_long(message: str, asked: Asked) -> UpstreamError:
    param = "messages" if asked.messages else "prompt"
    return UpstreamError(message, status=400, code="context_length_exceeded", param=param)


def encode(
    model: "Model", call: Call, asked: Asked, grammar: "Grammar | None" = None, tools: ToolFormat | None = None
) -> Encoded:
    """Takes milliseconds for long prompts: not for the event loop. Raises UpstreamError for what the chat template or
    the vocabulary refuses."""
    from farthing.engine.prompt import check_bias

    try:
        check_bias(model, asked.params)
    except InvalidRequest as error:
        raise UpstreamError(str(error), status=400, code="invalid_value", param="logit_bias") from None
    return Encoded(asked, tuple(_prompts(model, call, asked)), model.tokenizer, grammar, tools)


def _prompts(model: "Model", call: Call, asked: Asked) -> list[tuple[tuple[int, ...], int]]:
    """Token ids of each prompt, and how many of the first are public."""
    from farthing.engine.prompt import num_common
    from farthing.models.template import check_length, encode_chat

    tokenizer, vocab_size = model.tokenizer, model.config.vocab_size
    max_len = model.config.max_position_embeddings
    if not asked.messages:
        try:
            for text in asked.prompts:
                if isinstance(text, str):
                    check_length(tokenizer, text, max_len)
        except CapacityError as error:
            raise _too_long(str(error), asked) from None
        ids = [tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt) for prompt in asked.prompts]
        for prompt in ids:
            if not prompt or max(prompt) >= vocab_size:
                what = f"is empty; give one token or more, each from 0 to {vocab_size - 1}"
                raise UpstreamError(f"prompt: {what}", status=400, code="invalid_value", param="prompt")
        return [(tuple(prompt), 0) for prompt in ids]
    if asked.is_thoughtless and "<think>" in (tokenizer.chat_template or ""):
        unsupported("reasoning_effort", "this model thinks, which cannot be switched off here; leave it out")
    tools = list(asked.tools.values()) or None
    messages, begun = _begun(call, _known_roles(asked.messages, tokenizer.chat_template or ""))
    try:
        token_ids = encode_chat(tokenizer, messages, tools=tools, max_tokens=max_len, begun=begun)
    except CapacityError as error:
        raise _too_long(str(error), asked) from None
    except InvalidRequest as error:
        raise UpstreamError(str(error), status=400, code="invalid_value", param="messages") from None
    except CorruptModel as error:
        raise UpstreamError(str(error), status=500, code="model_error") from None
    num_public = 0
    if call.num_public_messages:
        # Without tools: they are the client's own, and no part of what all are given.
        public = messages[: call.num_public_messages]
        try:
            num_public = num_common(encode_chat(tokenizer, public, add_generation_prompt=False), token_ids)
        except (InvalidRequest, CorruptModel):
            num_public = 0
    return [(tuple(token_ids), num_public)]


def _begun(call: Call, messages: tuple[Mapping[str, Any], ...]) -> tuple[tuple[Mapping[str, Any], ...], str]:
    """(the conversation, what its answer begins with). In Anthropic's API an assistant's message at the end is the
    beginning of the answer; in OpenAI's it is a message like others, and a new one follows."""
    if call.wire != "messages" or messages[-1]["role"] != "assistant":
        return messages, ""
    last = f"messages.{len(call.body['messages']) - 1}"
    if messages[-1].get("tool_calls"):
        refuse(last, "a call of a tool cannot be continued; its tool_result must follow, or leave it out")
    if len(messages) == 1:
        refuse(last, "there is nothing that this answers; put a message of the user before it")
    return messages[:-1], messages[-1]["content"]


def _known_roles(messages: tuple[Mapping[str, Any], ...], template: str) -> tuple[Mapping[str, Any], ...]:
    """developer is OpenAI's newer word for system: templates that do not know it would leave those messages out."""
    if "developer" in template:
        return messages
    return tuple({**row, "role": "system"} if row["role"] == "developer" else row for row in messages)

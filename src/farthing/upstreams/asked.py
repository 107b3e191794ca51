"""What a local model is asked, whatever wire it came by: prompts, how tokens are chosen, what form the answer has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from farthing.request import SamplingParams
from farthing.upstreams.body import Body

__all__ = ["MAX_CHOICES", "Asked", "Form", "sampling"]

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_LETTERS = 1000
MAX_BIASES = 4096
UNBOUNDED = 2**31 - 1  # of max_tokens: more than any context


@dataclass(frozen=True)
class Form:
    """What the text has to be: any JSON object where schema is None, else what the schema says."""

    param: str  # of the field that asked for it
    schema: Any = None


@dataclass(frozen=True)
class Asked:
    """One of messages and prompts is there. max_tokens None: as many as the context holds."""

    params: SamplingParams  # max_tokens is set by who knows the prompt
    max_tokens: int | None
    n: int = 1
    messages: tuple[Mapping[str, Any], ...] = ()  # rows for the chat template
    prompts: tuple[str | tuple[int, ...], ...] = ()
    form: Form | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by name, as chat templates want them
    forced: tuple[str, ...] = ()  # one of these tools must be called; () is the model's choice
    length_param: str = "max_tokens"  # the field that max_tokens came by
    is_parallel: bool = True  # whether several calls may come in one answer
    is_thoughtless: bool = False  # no thoughts are wanted; a model that has them cannot keep from them


def sampling(body: Body, logprobs: int | None) -> SamplingParams:
    """How tokens are chosen, with OpenAI's defaults."""
    temperature = body.number("temperature", 0, 2)
    top_p = body.number("top_p", 0, 1, is_open=True)
    penalty = body.number("repetition_penalty", 0, 100, is_open=True)
    return SamplingParams(
        temperature=1.0 if temperature is None else temperature,
        top_k=_top_k(body),
        top_p=1.0 if top_p is None else top_p,
        min_p=body.number("min_p", 0, 1) or 0.0,
        repetition_penalty=1.0 if penalty is None else penalty,
        seed=_seed(body),
        stop=_stops(body),
        logprobs=logprobs,
        ignore_eos=body.flag("ignore_eos", False),
        logit_bias=_biases(body),
        presence_penalty=body.number("presence_penalty", -2, 2) or 0.0,
        frequency_penalty=body.number("frequency_penalty", -2, 2) or 0.0,
    )


def _top_k(body: Body) -> int | None:
    """-1 and 0 are all tokens, as in vLLM and llama.cpp."""
    value = body.integer("top_k", -1, UNBOUNDED)
    return value if value is not None and value > 0 else None


def _seed(body: Body) -> int | None:
    """OpenAI's seeds are signed 64-bit numbers; each stands for its own bits."""
    value = body.integer("seed", -(2**63), 2**64 - 1)
    return None if value is None else value % 2**64


def _stops(body: Body) -> tuple[str, ...]:
    value = body.take("stop")
    stops = [value] if isinstance(value, str) else [] if value is None else value
    is_list = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not is_list or not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_LETTERS for stop in stops):
        body.refuse(
            "stop", f"allowed: a string, or at most {MAX_STOPS} of them, each of 1 to {MAX_STOP_LETTERS} letters"
        )
    return tuple(stops)


def _biases(body: Body) -> tuple[tuple[int, float], ...]:
    value = body.mapping("logit_bias") or {}
    if len(value) > MAX_BIASES:
        body.refuse("logit_bias", f"has {len(value)} tokens; allowed: {MAX_BIASES}")
    pairs = []
    for token, bias in value.items():
        is_id = isinstance(token, str) and token.isascii() and token.isdigit() and len(token) < 10
        if not is_id or type(bias) not in (int, float) or not -100 <= bias <= 100:
            body.refuse("logit_bias", "allowed: token ids with a number from -100 to 100 each")
        pairs.append((int(token), float(bias)))
    return tuple(pairs)

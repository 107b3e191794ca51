"""The nouns: what is asked (Message, SamplingParams, Request) and what comes back (Token, Done)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest

__all__ = ["Constraint", "Done", "Event", "FinishReason", "Message", "Request", "SamplingParams", "Token"]

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen. Order of operations: logit_bias, presence_penalty and frequency_penalty,
    repetition_penalty, temperature, top_k, top_p, min_p.

    logit_bias is added to the logits of its token ids. Of the answer's own tokens so far, each that occurred loses
    presence_penalty once, and frequency_penalty as often as it occurred; repetition_penalty counts the prompt too.

    temperature 0 is greedy. logprobs N asks for the log-probability of the chosen token and of the N likeliest,
    under the model's own distribution (before penalty, temperature and truncation). stop strings end the text before
    themselves. Raises InvalidRequest for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, bias)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "temperature", "0 (greedy) to 100")
        need(self.top_k is None or self.top_k >= 1, "top_k", "1 or more, or none for all tokens")
        need(0 < self.top_p <= 1, "top_p", "above 0, at most 1 (1 keeps all)")
        need(0 <= self.min_p <= 1, "min_p", "0 (keeps all) to 1")
        penalty = self.repetition_penalty
        need(math.isfinite(penalty) and penalty > 0, "repetition_penalty", "above 0 (1 is off)")
        need(self.seed is None or 0 <= self.seed < 2**64, "seed", "0 to 2**64 - 1, or none for a fresh one")
        need(self.max_tokens >= 1, "max_tokens", "1 or more")
        need(self.logprobs is None or 0 <= self.logprobs <= 20, "logprobs", "0 to 20, or none")
        need(all(self.stop), "stop", "non-empty strings")
        need(all(-100 <= bias <= 100 for _, bias in self.logit_bias), "logit_bias", "-100 to 100 for each token id")
        for name in ("presence_penalty", "frequency_penalty"):
            need(-2 <= getattr(self, name) <= 2, name, "-2 to 2 (0 is off)")


class Constraint(Protocol):
    """Which tokens one answer may go on with; of the answer it knows what `take` tells it, and nothing else."""

    @property
    def is_done(self) -> bool:
        """Whether the answer is complete: nothing may follow."""
        ...

    def mask(self) -> bytes:
        """Bit i % 8 of byte i // 8 says whether token i may come next; tokens beyond its end may not."""
        ...

    def take(self, token_id: int) -> None:
        """The next token of the answer, or the end of the sequence where the mask allows it."""
        ...


@dataclass(frozen=True)
class Request:
    """One thing to answer: messages (the model's chat template is applied) or prompt token ids, not both.

    Requests share cached prefixes only with requests of the same salt, but for what is public: the first
    num_public_messages messages, or num_public_tokens token ids, are shared with every salt (a system prompt that all
    are given). Who runs the engine sets all three, from the authenticated identity and its own configuration; taken
    from the one who asks, they keep nobody apart.

    make_constraint makes what the answer has to obey, anew each time the request is submitted.
    """

    messages: tuple[Message, ...] = ()
    token_ids: tuple[int, ...] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    salt: str = ""
    num_public_messages: int = 0
    num_public_tokens: int = 0
    make_constraint: Callable[[], Constraint] | None = None

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.token_ids):
            raise InvalidRequest("a request needs either messages or token_ids (one of the two, not empty)")
        for name, most in (("num_public_messages", self.messages), ("num_public_tokens", self.token_ids)):
            if not 0 <= getattr(self, name) <= len(most):
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; allowed: 0 to {len(most)}, as many as given")


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. `text` may be empty (held back: a partial UTF-8 character, a possible stop string)."""

    request_id: int
    token_id: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token_id, logprob), likeliest first


@dataclass(frozen=True)
class Done:
    """The end of a request. `text` and `token_ids` are the whole answer; the end-of-sequence token is not in them."""

    request_id: int
    finish_reason: FinishReason
    usage: Usage
    text: str
    token_ids: tuple[int, ...]


Event = Token | Done

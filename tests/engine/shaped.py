"""Requests that change the logits or obey a constraint, and the naive loop that says what must come of them."""

from dataclasses import dataclass, field

import numpy as np

from farthing.request import Request, SamplingParams
from tests.engine.fake import EOS, VOCAB_SIZE, logits_of, stored


@dataclass
class Steps:
    """A constraint: the n-th token is one of those that are n modulo `stride`; complete after `num` tokens."""

    stride: int
    num: int
    taken: list[int] = field(default_factory=list)

    @property
    def is_done(self) -> bool:
        return len(self.taken) >= self.num

    def allowed(self) -> list[int]:
        return [id for id in range(VOCAB_SIZE - 1) if id % self.stride == len(self.taken) % self.stride]

    def mask(self) -> bytes:
        bits = np.zeros(VOCAB_SIZE, np.uint8)
        bits[self.allowed()] = 1
        return np.packbits(bits, bitorder="little").tobytes()

    def take(self, token_id: int) -> None:
        assert token_id in self.allowed(), "what the mask forbids was taken"
        self.taken.append(token_id)


def naive_shaped(request: Request, max_len: int = 512) -> tuple[list[int], str]:
    """Greedy answer of the one-token-at-a-time loop, and how it ends."""
    params = request.params
    constraint = None if request.make_constraint is None else request.make_constraint()
    prompt = list(request.token_ids)
    tokens = list(prompt)
    limit = min(len(prompt) + params.max_tokens, max_len)
    while True:
        logits = shaped_logits(tokens, len(prompt), params)
        if constraint is not None:
            forbidden = np.ones(VOCAB_SIZE, bool)
            forbidden[constraint.allowed()] = False
            logits[forbidden] = -np.inf
        token = int(logits.argmax())
        if token == EOS and not params.ignore_eos:
            return tokens[len(prompt) :], "stop"
        tokens.append(token)
        if constraint is not None:
            constraint.take(token)
            if constraint.is_done:
                return tokens[len(prompt) :], "stop"
        if len(tokens) == limit:
            return tokens[len(prompt) :], "length"


def shaped_logits(tokens: list[int], num_prompt: int, params: SamplingParams) -> np.ndarray:
    """[V] after biases and penalties, one token id after the other."""
    logits = logits_of(stored(tokens, range(len(tokens))))
    for id, bias in params.logit_bias:
        logits[id] += np.float32(bias)
    answer = tokens[num_prompt:]
    for id in set(answer):
        taken = params.presence_penalty + params.frequency_penalty * answer.count(id)
        logits[id] -= np.float32(taken)
    return logits

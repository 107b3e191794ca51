"""Tokens a second of the whole engine: scheduling, arithmetic, choosing tokens and making text of them."""

import time
from dataclasses import dataclass

from farthing.engine import Engine, EngineConfig
from farthing.models import Model
from farthing.report.sampling_cost import ROOM
from farthing.request import Request, SamplingParams

__all__ = ["EngineSpeed", "engine_speed"]

NUM_TOKENS = 128  # of each answer
ROUNDS = 3


@dataclass(frozen=True)
class EngineSpeed:
    """The best of a few rounds, while every sequence decodes: what a server has before HTTP takes its part."""

    batch: int
    context: int  # tokens of each prompt
    num_tokens: int  # of each answer
    tok_s: float


def engine_speed(model: Model, config: EngineConfig) -> EngineSpeed:
    """ROOM.batch greedy sequences at once, each with a prompt of its own."""
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    best = 0.0
    with Engine(model, config) as engine:
        for number in range(ROUNDS):
            for sequence in range(ROOM.batch):
                first = 97 * (number * ROOM.batch + sequence)
                token_ids = tuple((first + place) % model.config.vocab_size for place in range(ROOM.context))
                engine.submit(Request(token_ids=token_ids, params=params))
            num_output = engine.stats().num_output_tokens
            while engine.stats().num_output_tokens < num_output + ROOM.batch:  # until all have begun
                engine.step()
            begun, started = engine.stats().num_output_tokens, time.perf_counter()
            while engine.has_work:
                engine.step()
            best = max(best, (engine.stats().num_output_tokens - begun) / (time.perf_counter() - started))
    return EngineSpeed(ROOM.batch, ROOM.context, NUM_TOKENS, best)

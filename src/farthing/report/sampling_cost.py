"""What sampling costs beside choosing greedily, in steps that alternate between the two."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from farthing import kernels
from farthing.report.speed import Bench, Work

__all__ = ["ROOM", "SamplingCost", "sampling_cost"]

ROOM = Work("decode", 16, 32)  # what a Bench must have room for


@dataclass(frozen=True)
class SamplingCost:
    """Median seconds of the arithmetic before, of a greedy choice and of sampling, for all sequences of a step."""

    batch: int
    temperature: float
    top_p: float
    forward_s: float
    greedy_s: float
    sampled_s: float

    @property
    def percent(self) -> float:
        """How much longer a step is that samples than one that chooses greedily."""
        return 100 * (self.sampled_s - self.greedy_s) / (self.forward_s + self.greedy_s)


def sampling_cost(
    bench: Bench, temperature: float = 1.0, top_p: float = 0.95, num_steps: int = ROOM.longest
) -> SamplingCost:
    """Lets ROOM.batch sequences go on from different tokens with what they sample, so that the distributions are the
    model's own; every step is run twice, once to choose greedily and once to sample."""
    batch = ROOM.batch
    forward: list[float] = []
    choosing: dict[float, list[float]] = {0.0: [], temperature: []}
    token_ids = np.arange(batch, dtype=np.int32) * 97 % np.int32(bench.vocab_size)
    for step in range(num_steps):
        for t in choosing:
            started = time.perf_counter()
            logits = kernels.run(bench.program, bench.decode_batch(token_ids, step))
            between = time.perf_counter()
            chosen = kernels.sample(bench.program, logits, **_arguments(batch, t, top_p, step))
            choosing[t].append(time.perf_counter() - between)
            forward.append(between - started)
        token_ids = chosen.token  # of the second choice, which sampled
    greedy_s, sampled_s = map(statistics.median, choosing.values())
    return SamplingCost(batch, temperature, top_p, statistics.median(forward), greedy_s, sampled_s)


def _arguments(n: int, temperature: float, top_p: float, step: int) -> dict[str, Any]:
    return {
        "temperature": np.full(n, temperature, np.float32),
        "top_k": np.zeros(n, np.int32),
        "top_p": np.full(n, top_p, np.float32),
        "min_p": np.zeros(n, np.float32),
        "penalty": np.ones(n, np.float32),
        "seed": np.arange(n, dtype=np.uint64),
        "step": np.full(n, step, np.uint64),
        "history": np.zeros(0, np.int32),
        "history_starts": np.zeros(n + 1, np.int64),
        "num_top": 0,
        "wants_logprob": np.zeros(n, np.uint8),
    }

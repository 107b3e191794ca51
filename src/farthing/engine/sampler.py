"""Gathers the sampling parameters of a step's sequences into arrays for the native sampler, and calls it."""

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from farthing.engine.batch import LogitRow
from farthing.engine.sequence import Sequence
from farthing.engine.shaping import is_shaped, measure, shape
from farthing.kernels import Program, Sampled
from farthing.kernels.plan import Batch, KVSpec, Plan

__all__ = ["Kernels", "Sampler", "logprobs"]


class Kernels(Protocol):
    """What the engine needs of `farthing.kernels`; tests give others."""

    def load(self, plan: Plan, kv: KVSpec, *, num_threads: int, isa: str) -> Program: ...
    def run(self, program: Program, batch: Batch) -> npt.NDArray[np.float32]: ...
    def sample(self, program: Program, logits: npt.NDArray[np.float32], *args: Any, **kwargs: Any) -> Sampled: ...


class Sampler:
    """Arrays are kept while the sequences stay the same."""

    def __init__(self, kernels: Kernels, program: Program, eos_ids: Collection[int]) -> None:
        self._kernels, self._program, self._eos_ids = kernels, program, eos_ids
        self._seqs: list[Sequence] = []
        self._arrays: dict[str, npt.NDArray[np.generic]] = {}
        self._num_top = 0
        self._is_shaped = self._is_penalized = self._is_random = False
        self._no_history = np.zeros(0, np.int32), np.zeros(1, np.int64)
        self._no_steps = np.zeros(0, np.uint64)

    def sample(self, logits: npt.NDArray[np.float32], rows: list[LogitRow]) -> Sampled:
        """One token for each row of logits [L, V], which are changed where a request asks for it."""
        arguments = self._arguments(rows)
        before = shape(logits, rows, self._eos_ids) if self._is_shaped else {}
        sampled = self._kernels.sample(self._program, logits, **arguments)
        if before:
            measure(sampled, rows, before)
        return sampled

    def _arguments(self, rows: list[LogitRow]) -> dict[str, object]:
        """Arguments for the rows of logits. The random number is a function of (seed, output position)."""
        seqs = [seq for seq, _ in rows]
        if seqs != self._seqs:
            self._collect(seqs)
        history, starts = self._no_history  # starts: [rows + 1]
        if self._is_penalized:
            starts = np.zeros(len(rows) + 1, np.int64)
            seen = [seq.token_ids[: n if seq.params.repetition_penalty != 1 else 0] for seq, n in rows]
            history = np.concatenate(seen)
            np.cumsum([len(tokens) for tokens in seen], out=starts[1:])
        step = self._no_steps  # [rows]
        if self._is_random:
            step = np.array([n - seq.num_prompt_tokens for seq, n in rows], np.uint64)
        return {**self._arrays, "step": step, "history": history, "history_starts": starts, "num_top": self._num_top}

    def _collect(self, seqs: list[Sequence]) -> None:
        params = [seq.params for seq in seqs]
        self._seqs = seqs
        self._num_top = max((p.logprobs or 0 for p in params), default=0)
        self._is_shaped = any(map(is_shaped, seqs))
        self._is_random = any(p.temperature > 0 for p in params)
        self._no_history = np.zeros(0, np.int32), np.zeros(len(seqs) + 1, np.int64)
        self._no_steps = np.zeros(len(seqs), np.uint64)
        self._is_penalized = any(p.repetition_penalty != 1 for p in params)
        self._arrays = {
            "temperature": np.array([p.temperature for p in params], np.float32),
            "top_k": np.array([min(p.top_k or 0, 2**31 - 1) for p in params], np.int32),
            "top_p": np.array([p.top_p for p in params], np.float32),
            "min_p": np.array([p.min_p for p in params], np.float32),
            "penalty": np.array([p.repetition_penalty for p in params], np.float32),
            "seed": np.array([seq.seed for seq in seqs], np.uint64),
            "wants_logprob": np.array([p.logprobs is not None for p in params], np.uint8),
            "is_as_run": np.array([not is_shaped(seq) for seq in seqs], np.uint8),
        }


def logprobs(seq: Sequence, sampled: Sampled, row: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """The chosen token's log-probability and the likeliest tokens, as far as the request asked for them."""
    wanted = seq.params.logprobs
    if wanted is None:
        return None, ()
    tokens, values = sampled.top_token[row, :wanted].tolist(), sampled.top_logprob[row, :wanted].tolist()
    return float(sampled.logprob[row]), tuple(zip(tokens, values, strict=True))

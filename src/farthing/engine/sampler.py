"""Gathers the sampling parameters of a step's sequences into arrays for the native sampler."""

import numpy as np
import numpy.typing as npt

from farthing.engine.batch import LogitRow
from farthing.engine.sequence import Sequence
from farthing.kernels import Sampled

__all__ = ["SampleArrays"]


class SampleArrays:
    """The keyword arguments of `kernels.sample`; arrays are kept while the sequences stay the same."""

    def __init__(self) -> None:
        self._seqs: list[Sequence] = []
        self._arrays: dict[str, npt.NDArray[np.generic]] = {}
        self._num_top = 0
        self._is_penalized = False

    def of(self, rows: list[LogitRow]) -> dict[str, object]:
        """Arguments for the rows of logits. The random number is a function of (seed, output position)."""
        seqs = [seq for seq, _ in rows]
        if seqs != self._seqs:
            self._collect(seqs)
        history = np.zeros(0, np.int32)
        starts = np.zeros(len(rows) + 1, np.int64)  # [rows + 1]
        if self._is_penalized:
            seen = [seq.token_ids[: n if seq.params.repetition_penalty != 1 else 0] for seq, n in rows]
            history = np.concatenate(seen)
            np.cumsum([len(tokens) for tokens in seen], out=starts[1:])
        step = np.array([n - seq.num_prompt_tokens for seq, n in rows], np.uint64)  # [rows]
        return {**self._arrays, "step": step, "history": history, "history_starts": starts, "num_top": self._num_top}

    def _collect(self, seqs: list[Sequence]) -> None:
        params = [seq.params for seq in seqs]
        self._seqs = seqs
        self._num_top = max((p.logprobs or 0 for p in params), default=0)
        self._is_penalized = any(p.repetition_penalty != 1 for p in params)
        self._arrays = {
            "temperature": np.array([p.temperature for p in params], np.float32),
            "top_k": np.array([min(p.top_k or 0, 2**31 - 1) for p in params], np.int32),
            "top_p": np.array([p.top_p for p in params], np.float32),
            "min_p": np.array([p.min_p for p in params], np.float32),
            "penalty": np.array([p.repetition_penalty for p in params], np.float32),
            "seed": np.array([seq.seed for seq in seqs], np.uint64),
            "wants_logprob": np.array([p.logprobs is not None for p in params], np.uint8),
        }


def logprobs(seq: Sequence, sampled: Sampled, row: int) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """The chosen token's log-probability and the likeliest tokens, as far as the request asked for them."""
    wanted = seq.params.logprobs
    if wanted is None:
        return None, ()
    tokens, values = sampled.top_token[row, :wanted].tolist(), sampled.top_logprob[row, :wanted].tolist()
    return float(sampled.logprob[row]), tuple(zip(tokens, values, strict=True))

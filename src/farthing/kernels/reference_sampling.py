"""Token choice in NumPy: the oracle of the native sampler and its fallback beside the reference interpreter."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["sample_rows", "uniform"]

_MASK = (1 << 64) - 1


def _splitmix64(x: int) -> int:
    """The output function of Steele, Lea and Flood's SplitMix (2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def uniform(seed: int, step: int) -> float:
    """A number in [0, 1) that is a function of (seed, step) alone: 53 bits."""
    return float(_splitmix64((_splitmix64(seed) + step) & _MASK) >> 11) * 2.0**-53


def sample_rows(
    logits: npt.NDArray[np.float32],  # [n, V]
    token: npt.NDArray[np.int32],  # out [n]
    logprob: npt.NDArray[np.float32],  # out [n]
    top_token: npt.NDArray[np.int32],  # out [n, num_top]
    top_logprob: npt.NDArray[np.float32],  # out [n, num_top]
    history: npt.NDArray[np.int32],
    history_starts: npt.NDArray[np.int64],
    wants_logprob: npt.NDArray[np.uint8],
    **params: npt.NDArray[Any],
) -> None:
    """Fills the outputs row by row; arguments as in `farthing.kernels.sample`."""
    for i, row in enumerate(logits):
        raw = np.where(np.isnan(row), -np.inf, row).astype(np.float64)
        seen = np.unique(history[history_starts[i] : history_starts[i + 1]])
        token[i] = _choose(raw, seen, {name: values[i] for name, values in params.items()})
        if wants_logprob[i]:
            logprobs = _log_softmax(raw)
            logprob[i] = logprobs[token[i]]
            top = np.lexsort((np.arange(len(raw)), -raw))[: top_token.shape[1]]
            top_token[i], top_logprob[i] = top, logprobs[top]


def _log_softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if not np.isfinite(x.max()):
        return np.zeros_like(x)
    shifted = x - x.max()
    with np.errstate(divide="ignore"):
        result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _choose(raw: npt.NDArray[np.float64], seen: npt.NDArray[np.int32], p: dict[str, Any]) -> int:
    x = raw.copy()
    if p["penalty"] != 1:
        x[seen] = np.where(x[seen] > 0, x[seen] / p["penalty"], x[seen] * p["penalty"])
    if p["temperature"] == 0 or not np.isfinite(x.max()):
        return int(np.argmax(x))
    x = (x - x.max()) / p["temperature"]
    order = np.lexsort((np.arange(len(x)), -x))  # likeliest first, ties by lowest id
    if p["top_k"] > 0:
        order = order[: p["top_k"]]
    weights = np.exp(x[order])
    if p["top_p"] < 1:
        cumulative = np.cumsum(weights / weights.sum())
        order = order[: int(np.searchsorted(cumulative, p["top_p"])) + 1]
    if p["min_p"] > 0:
        order = order[np.exp(x[order]) >= p["min_p"]]
    order = np.sort(order)  # the draw runs through the survivors by id, as native code does, which never sorts them
    cumulative = np.cumsum(np.exp(x[order]))
    target = uniform(int(p["seed"]), int(p["step"])) * cumulative[-1]
    return int(order[min(int(np.searchsorted(cumulative, target, side="right")), len(order) - 1)])

"""Logarithms of probabilities, of scores."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["log_softmax"]

Float = TypeVar("Float", np.float32, np.float64)


def log_softmax(scores: NDArray[Float]) -> NDArray[Float]:
    """Over the last axis, in the scores' own precision."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    result: NDArray[Float] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result

"""Statistics of every weight's input over a text: the second moments that calibrated methods quantize by."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from farthing.kernels.plan import QTensor
from farthing.quant.methods import Statistics
from farthing.tuning.forward import Forward

__all__ = ["Consumer", "observe_head", "observe_layer"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# Called with the weights that meet one input, when all of it has been seen.
Consumer = Callable[[tuple[str, ...], Statistics], None]

_ROWS = 2048  # whose products are summed in float32 before they are added in float64


class _Sum:
    """x^T x [cols, cols] of rows seen so far."""

    def __init__(self, cols: int) -> None:
        self.gram: F64 = np.zeros((cols, cols))
        self.num_tokens = 0

    def add(self, x: F32) -> None:
        for first in range(0, len(x), _ROWS):
            part = x[first : first + _ROWS]
            self.gram += part.T @ part  # of the same array: BLAS computes one half
        self.num_tokens += len(x)

    def mean(self) -> Statistics:
        self.gram /= self.num_tokens
        return Statistics(self.gram.astype(np.float32), self.num_tokens)


class _Sums:
    """Of several inputs at once; whoever is complete goes to the consumer and is forgotten."""

    def __init__(self, consume: Consumer) -> None:
        self._consume = consume
        self._open: dict[tuple[str, ...], _Sum] = {}

    def tap(self, weights: tuple[str, ...], x: F32, is_all: bool) -> None:
        total = self._open.setdefault(weights, _Sum(x.shape[1]))
        total.add(x)
        if is_all:
            self._consume(weights, self._open.pop(weights).mean())

    def close(self) -> None:
        for weights in list(self._open):
            self._consume(weights, self._open.pop(weights).mean())


def observe_layer(forward: Forward, index: int, tensors: Mapping[str, QTensor], consume: Consumer) -> None:
    """Run a layer and hand on what its weights met: experts' as soon as their rows are through, the others' at its end.

    Experts that no token chose are never handed on.
    """
    sums = _Sums(consume)
    forward.layer(index, tensors, sums.tap)
    sums.close()


def observe_head(forward: Forward, tensors: Mapping[str, QTensor], consume: Consumer) -> None:
    """The same of the head's weight, after the last layer."""
    sums = _Sums(consume)
    forward.head_inputs(tensors, sums.tap)
    sums.close()

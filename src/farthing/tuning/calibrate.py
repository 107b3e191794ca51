"""Statistics of every weight's input over a text: the second moments that calibrated methods quantize by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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

# Every later token attends to a window's first one, whose inputs are like no other's: as one token of hundreds its
# errors would hardly count.
_START_WEIGHT = 16

_ROWS = 2048  # whose products are summed in float32 before they are added in float64


@dataclass(frozen=True)
class _Seen:
    gram: F64  # x^T x [cols, cols]
    num_tokens: int
    weight: int  # as how many tokens they count


class _Sums:
    """A Tap that adds up x^T x of several inputs; whoever is complete goes to the consumer and is forgotten."""

    def __init__(self, consume: Consumer) -> None:
        self._consume = consume
        self._open: dict[tuple[str, ...], _Seen] = {}

    def see(self, rows: F32, num_windows: int = 0) -> _Seen:
        gram = np.zeros((rows.shape[1],) * 2)
        for first in range(0, len(rows), _ROWS):
            part = rows[first : first + _ROWS]
            gram += part.T @ part  # of the same array: BLAS computes one half
        more = (_START_WEIGHT - 1) * num_windows
        if more:
            starts = rows[:: len(rows) // num_windows]
            gram += (_START_WEIGHT - 1) * (starts.T @ starts)
        return _Seen(gram, len(rows), len(rows) + more)

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        assert isinstance(seen, _Seen)
        before = self._open.pop(weights, None)
        if before is not None:
            num_tokens, weight = before.num_tokens + seen.num_tokens, before.weight + seen.weight
            seen = _Seen(before.gram + seen.gram, num_tokens, weight)
        if is_all:
            self._finish(weights, seen)
        else:
            self._open[weights] = seen

    def close(self) -> None:
        for weights in list(self._open):
            self._finish(weights, self._open.pop(weights))

    def _finish(self, weights: tuple[str, ...], seen: _Seen) -> None:
        mean = (seen.gram / seen.weight).astype(np.float32)
        self._consume(weights, Statistics(mean, seen.num_tokens))


def observe_layer(forward: Forward, index: int, tensors: Mapping[str, QTensor], consume: Consumer) -> None:
    """Run a layer and hand on what its weights met: experts' as soon as their rows are through, the others' at its end.

    Experts that no token chose are never handed on.
    """
    sums = _Sums(consume)
    forward.layer(index, tensors, sums)
    sums.close()


def observe_head(forward: Forward, tensors: Mapping[str, QTensor], consume: Consumer) -> None:
    """The same of the head's weight, after the last layer."""
    sums = _Sums(consume)
    forward.head_inputs(tensors, sums)
    sums.close()

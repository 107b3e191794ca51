"""Which layers of a teacher matter to its task, measured without training anything."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.models import Model
from farthing.tuning.forward import Forward

__all__ = ["choose_layers"]

MOST_TOKENS = 1024  # that the layers are measured on
LONGEST = 64  # tokens of a text


def choose_layers(
    model: Model,
    token_ids: Sequence[Sequence[int]],
    num_layers: int,
    on_step: Callable[[int], None] | None = None,
) -> tuple[int, ...]:
    """The layers to keep, ascending; the first and the last always.

    Greedy: again and again the layer goes that turns the residual stream least (the mean angle between its input and
    its output over the tokens), measured in the model that is left. on_step is told how many layers are left. Raises
    InvalidRequest for a number that cannot be.
    """
    total = model.config.num_layers
    if not 1 <= num_layers <= total:
        raise InvalidRequest(f"student: layers={num_layers}; the teacher has {total}: allowed: 1 to {total}")
    if num_layers <= 2:
        return (0, total - 1)[:num_layers] if total > 1 else (0,)
    measure = _Angles(model, token_ids)
    kept, angles = list(range(total)), measure.all_angles()
    while len(kept) > num_layers:
        place = min(range(1, len(kept) - 1), key=lambda i: angles[i])
        del kept[place], angles[place]
        if on_step is not None:
            on_step(len(kept))
        if len(kept) > num_layers:
            angles[place:] = measure.angles_after(place, kept)
    return tuple(kept)


class _Angles:
    """The teacher on a few texts, kept at each layer's input, so that only what follows a dropped layer runs again."""

    def __init__(self, model: Model, token_ids: Sequence[Sequence[int]]) -> None:
        texts = [list(ids[:LONGEST]) for ids in token_ids if len(ids) > 0]
        if not texts:
            raise InvalidRequest("there is no text to measure the layers on")
        length = max(map(len, texts))
        texts = texts[: max(1, MOST_TOKENS // length)]
        # What comes after a text changes nothing in it. The first token is the sink that all attention falls into.
        self._counted = np.array([[1 <= i < len(ids) or len(ids) == 1 for i in range(length)] for ids in texts])
        self._tensors = model.plan().tensors
        self._forward = Forward(model.plan(), [ids + [ids[-1]] * (length - len(ids)) for ids in texts])
        self._inputs: list[NDArray[np.float32]] = []  # of each layer that is left
        self._num_layers = model.config.num_layers

    def all_angles(self) -> list[float]:
        self._forward.embed(self._tensors)
        self._inputs = [self._forward.stream.copy()]
        return self._run(range(self._num_layers))

    def angles_after(self, place: int, kept: Sequence[int]) -> list[float]:
        """The angles of kept[place:], where a layer before kept[place] has just gone."""
        del self._inputs[place + 1 :]
        self._forward.stream = self._inputs[-1]
        return self._run(kept[place:])

    def _run(self, layers: Sequence[int]) -> list[float]:
        angles = []
        for layer in layers:
            self._forward.layer(layer, self._tensors)
            self._inputs.append(self._forward.stream.copy())
            angles.append(_mean_angle(self._inputs[-2], self._inputs[-1], self._counted.reshape(-1)))
        return angles


def _mean_angle(before: NDArray[np.float32], after: NDArray[np.float32], counted: NDArray[np.bool_]) -> float:
    a, b = before[counted].astype(np.float64), after[counted].astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / np.maximum(lengths, 1e-30)
    return float(np.arccos(np.clip(cosine, -1, 1)).mean())

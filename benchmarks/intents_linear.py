"""The linear model of `farthing distill`, and the nearest training rows by its n-grams."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.distill.linear import train_linear
from farthing.models.linear import NUM_COLUMNS, Linear

__all__ = ["Linear", "Nearest", "train_linear"]


class Nearest:
    """Which intents the most similar training rows have: candidates without any training."""

    def __init__(self, linear: Linear, texts: Sequence[str], labels: NDArray[np.int64], num_intents: int) -> None:
        self._linear, self._labels, self._num_intents = linear, labels, num_intents
        vectors = [linear.vector(text) for text in texts]
        columns = np.concatenate([vector.columns for vector in vectors])
        order = np.argsort(columns, kind="stable")
        self._rows = np.repeat(np.arange(len(vectors)), [len(vector.columns) for vector in vectors])[order]
        self._values = np.concatenate([vector.values for vector in vectors])[order]
        self._starts = np.searchsorted(columns[order], np.arange(NUM_COLUMNS + 1))

    def shares(self, text: str, num_rows: int = 20) -> NDArray[np.float64]:
        """[num_intents], each intent's share of the similarity (cubed) of the nearest rows."""
        vector = self._linear.vector(text)
        similar = np.zeros(len(self._labels))
        for column, value in zip(vector.columns, vector.values, strict=True):
            part = slice(self._starts[column], self._starts[column + 1])
            similar[self._rows[part]] += value * self._values[part]
        nearest = np.argsort(-similar)[:num_rows]
        found = np.bincount(self._labels[nearest], similar[nearest] ** 3, self._num_intents)
        return np.asarray(found / max(found.sum(), 1e-12))

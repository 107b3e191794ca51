"""A linear model on hashed n-grams: the cheapest way from a text to log-probabilities of labels, in NumPy.

A text is the words, pairs of words and parts of words that occur in it, weighted by how rare they are (tf-idf, length
1). `distill.linear` trains it, `models.linear_file` keeps it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import KINDS, NUM_BUCKETS, grams
from farthing.models.log_softmax import log_softmax

__all__ = ["NUM_COLUMNS", "Linear", "Vector", "columns_of", "weighted"]

Matrix = NDArray[np.float32]
NUM_COLUMNS = NUM_BUCKETS * len(KINDS)
_LEAST = np.float32(1e-12)  # of a probability whose logarithm is taken


@dataclass(frozen=True)
class Vector:
    """A text: which columns it has, each once, and their weights."""

    columns: NDArray[np.int64]
    values: Matrix


@dataclass(frozen=True)
class Linear:
    idf: Matrix = field(repr=False)  # [NUM_COLUMNS]
    weights: Matrix = field(repr=False)  # [NUM_COLUMNS, num_labels]
    offsets: Matrix = field(repr=False)  # [num_labels]

    def vector(self, text: str) -> Vector:
        return weighted(columns_of(text), self.idf)

    def log_chances(self, text: str) -> Matrix:
        """Log-probability of each label."""
        vector = self.vector(text)
        return log_softmax(vector.values @ self.weights[vector.columns] + self.offsets)

    def probabilities(self, texts: Sequence[str]) -> Matrix:
        """[n, num_labels]; each text is computed alone, whatever stands beside it."""
        rows = [np.exp(self.log_chances(text)) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), len(self.offsets))

    def log_probabilities(self, texts: Sequence[str]) -> Matrix:
        """[n, num_labels], as cascades mix them: none is less than that of one in 10¹²."""
        return np.log(np.maximum(self.probabilities(texts), _LEAST))


def columns_of(text: str) -> NDArray[np.int64]:
    found = grams(text)
    return np.concatenate([found[kind] + place * NUM_BUCKETS for place, kind in enumerate(KINDS)])


def weighted(columns: NDArray[np.int64], idf: Matrix) -> Vector:
    values = idf[columns]
    return Vector(columns, values / max(float(np.sqrt((values**2).sum())), 1e-6))

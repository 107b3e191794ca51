"""The zero-th stage: multinomial logistic regression on hashed n-grams, in NumPy. The cheapest model, and the one that
every student has to beat.

A text is the words, pairs of words and parts of words that occur in it, weighted by how rare they are (tf-idf, length
1). Trained by AdaGrad in small batches, in which only the columns that occur are touched; the same seed gives the same
weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farthing.distill.log_softmax import log_softmax
from farthing.errors import InvalidRequest
from farthing.router.grams import KINDS, NUM_BUCKETS, grams

__all__ = ["NUM_COLUMNS", "Linear", "Vector", "train_linear"]

Matrix = NDArray[np.float32]
NUM_COLUMNS = NUM_BUCKETS * len(KINDS)
BATCH = 64
NUM_EPOCHS = 12
RATE = 0.15
L2 = 1e-6


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
        return _weighted(_columns(text), self.idf)

    def log_chances(self, text: str) -> Matrix:
        """Log-probability of each label."""
        vector = self.vector(text)
        return log_softmax(vector.values @ self.weights[vector.columns] + self.offsets)

    def probabilities(self, texts: Sequence[str]) -> Matrix:
        """[n, num_labels]"""
        rows = [np.exp(self.log_chances(text)) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), len(self.offsets))


def train_linear(texts: Sequence[str], labels: NDArray[np.int64], num_labels: int, seed: int = 0) -> Linear:
    """Raises InvalidRequest where there are no texts, or not a label for each."""
    if not texts or len(labels) != len(texts) or num_labels < 1:
        raise InvalidRequest(f"{len(texts)} texts, {len(labels)} labels of {num_labels} kinds; one each is needed")
    found = [_columns(text) for text in texts]
    counts = np.bincount(np.concatenate(found), minlength=NUM_COLUMNS)
    idf = np.log((1 + len(texts)) / (1 + counts)).astype(np.float32)
    vectors = [_weighted(columns, idf) for columns in found]
    weights = np.zeros((NUM_COLUMNS, num_labels), np.float32)
    squares = np.full((NUM_COLUMNS, 1), 1e-6, np.float32)
    offsets = np.zeros(num_labels, np.float32)
    rng = np.random.default_rng(seed)
    for epoch in range(NUM_EPOCHS):
        order = rng.permutation(len(vectors))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            used, dense = _dense([vectors[i] for i in rows])
            error = np.exp(log_softmax(dense @ weights[used] + offsets))
            error[np.arange(len(rows)), labels[rows]] -= 1
            slope = dense.T @ error + L2 * weights[used]
            squares[used] += (slope**2).mean(axis=1, keepdims=True)
            weights[used] -= RATE / (1 + epoch) ** 0.5 * slope / np.sqrt(squares[used])
            offsets -= 0.01 * error.sum(axis=0)
    return Linear(idf, weights, offsets)


def _dense(vectors: Sequence[Vector]) -> tuple[NDArray[np.int64], Matrix]:
    """The columns that occur in a batch, and its texts as rows of these alone."""
    used, places = np.unique(np.concatenate([vector.columns for vector in vectors]), return_inverse=True)
    dense = np.zeros((len(vectors), len(used)), np.float32)
    sizes = [len(vector.columns) for vector in vectors]
    dense[np.repeat(np.arange(len(vectors)), sizes), places] = np.concatenate([vector.values for vector in vectors])
    return used, dense


def _columns(text: str) -> NDArray[np.int64]:
    found = grams(text)
    return np.concatenate([found[kind] + place * NUM_BUCKETS for place, kind in enumerate(KINDS)])


def _weighted(columns: NDArray[np.int64], idf: Matrix) -> Vector:
    values = idf[columns]
    return Vector(columns, values / max(float(np.sqrt((values**2).sum())), 1e-6))

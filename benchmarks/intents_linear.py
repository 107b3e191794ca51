"""The zero-th stage: multinomial logistic regression on hashed n-grams, and the nearest training rows by these.

A text is the words, pairs of words and parts of words that occur in it, weighted by how rare they are (tf-idf, length
1). Trained by AdaGrad in small batches, in which only the columns that occur are touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.router.grams import KINDS, NUM_BUCKETS, grams

__all__ = ["Linear", "Nearest", "train_linear"]

Matrix = NDArray[np.float32]
NUM_COLUMNS = NUM_BUCKETS * len(KINDS)
BATCH = 64
NUM_EPOCHS = 12
RATE = 0.15
L2 = 1e-6


@dataclass(frozen=True)
class Vector:
    columns: NDArray[np.int64]
    values: Matrix


@dataclass(frozen=True)
class Linear:
    idf: Matrix  # [NUM_COLUMNS]
    weights: Matrix  # [NUM_COLUMNS, num_intents]
    offsets: Matrix

    def log_chances(self, text: str) -> Matrix:
        """Log-probability of each intent."""
        vector = _vector(text, self.idf)
        return _log_softmax(vector.values @ self.weights[vector.columns] + self.offsets)


class Nearest:
    """Which intents the most similar training rows have: candidates without any training."""

    def __init__(self, linear: Linear, texts: Sequence[str], labels: NDArray[np.int64], num_intents: int) -> None:
        self._idf, self._labels, self._num_intents = linear.idf, labels, num_intents
        vectors = [_vector(text, linear.idf) for text in texts]
        columns = np.concatenate([vector.columns for vector in vectors])
        order = np.argsort(columns, kind="stable")
        self._rows = np.repeat(np.arange(len(vectors)), [len(vector.columns) for vector in vectors])[order]
        self._values = np.concatenate([vector.values for vector in vectors])[order]
        self._starts = np.searchsorted(columns[order], np.arange(NUM_COLUMNS + 1))

    def shares(self, text: str, num_rows: int = 20) -> NDArray[np.float64]:
        """[num_intents], each intent's share of the similarity (cubed) of the nearest rows."""
        vector = _vector(text, self._idf)
        similar = np.zeros(len(self._labels))
        for column, value in zip(vector.columns, vector.values, strict=True):
            part = slice(self._starts[column], self._starts[column + 1])
            similar[self._rows[part]] += value * self._values[part]
        nearest = np.argsort(-similar)[:num_rows]
        found = np.bincount(self._labels[nearest], similar[nearest] ** 3, self._num_intents)
        return np.asarray(found / max(found.sum(), 1e-12))


def train_linear(texts: Sequence[str], labels: NDArray[np.int64], num_intents: int, seed: int = 0) -> Linear:
    found = [_columns(text) for text in texts]
    counts = np.bincount(np.concatenate(found), minlength=NUM_COLUMNS)
    idf = np.log((1 + len(texts)) / (1 + counts)).astype(np.float32)
    vectors = [_weighted(columns, idf) for columns in found]
    weights = np.zeros((NUM_COLUMNS, num_intents), np.float32)
    squares = np.full((NUM_COLUMNS, 1), 1e-6, np.float32)
    offsets = np.zeros(num_intents, np.float32)
    rng = np.random.default_rng(seed)
    for epoch in range(NUM_EPOCHS):
        order = rng.permutation(len(vectors))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            used, places = np.unique(np.concatenate([vectors[i].columns for i in rows]), return_inverse=True)
            dense = np.zeros((len(rows), len(used)), np.float32)
            sizes = [len(vectors[i].columns) for i in rows]
            dense[np.repeat(np.arange(len(rows)), sizes), places] = np.concatenate([vectors[i].values for i in rows])
            error = np.exp(_log_softmax(dense @ weights[used] + offsets))
            error[np.arange(len(rows)), labels[rows]] -= 1
            slope = dense.T @ error + L2 * weights[used]
            squares[used] += (slope**2).mean(axis=1, keepdims=True)
            weights[used] -= RATE / (1 + epoch) ** 0.5 * slope / np.sqrt(squares[used])
            offsets -= 0.01 * error.sum(axis=0)
    return Linear(idf, weights, offsets)


def _columns(text: str) -> NDArray[np.int64]:
    found = grams(text)
    return np.concatenate([found[kind] + place * NUM_BUCKETS for place, kind in enumerate(KINDS)])


def _vector(text: str, idf: Matrix) -> Vector:
    return _weighted(_columns(text), idf)


def _weighted(columns: NDArray[np.int64], idf: Matrix) -> Vector:
    values = idf[columns]
    return Vector(columns, values / max(float(np.sqrt((values**2).sum())), 1e-6))


def _log_softmax(scores: Matrix) -> Matrix:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)), np.float32)

"""Training the zero-th stage: multinomial logistic regression on hashed n-grams. The cheapest model (`models.linear`),
and the one that every student has to beat.

AdaGrad in small batches, in which only the columns that occur are touched; the same seed gives the same weights.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.models.linear import NUM_COLUMNS, Linear, Vector, columns_of, weighted
from farthing.models.log_softmax import log_softmax

__all__ = ["train_linear"]

Matrix = NDArray[np.float32]
BATCH = 64
NUM_EPOCHS = 12
RATE = 0.15
L2 = 1e-6


def train_linear(texts: Sequence[str], labels: NDArray[np.int64], num_labels: int, seed: int = 0) -> Linear:
    """Raises InvalidRequest where there are no texts, or not a label for each."""
    if not texts or len(labels) != len(texts) or num_labels < 1:
        raise InvalidRequest(f"{len(texts)} texts, {len(labels)} labels of {num_labels} kinds; one each is needed")
    found = [columns_of(text) for text in texts]
    counts = np.bincount(np.concatenate(found), minlength=NUM_COLUMNS)
    idf = np.log((1 + len(texts)) / (1 + counts)).astype(np.float32)
    vectors = [weighted(columns, idf) for columns in found]
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

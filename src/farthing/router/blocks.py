"""Blocks of features: how a text or a row of numbers enters a linear model, learned from the training part alone.

TextBlock    tf-idf over hashed grams, each text of length 1
FormBlock    numbers, standardised and cut at 3 deviations, seen through random cosines: a smooth curve, not a line
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import NUM_BUCKETS, Sparse

__all__ = ["FormBlock", "TextBlock", "form_block", "text_block"]

Matrix = NDArray[np.float64]
NUM_COSINES = 512
CUT = 3.0
MIN_TEXTS = 2  # a bucket of a single training text says nothing of others


@dataclass(frozen=True)
class TextBlock:
    idf: Matrix  # [NUM_BUCKETS]; 0 where the training part never had it, or once

    def rows(self, texts: Sparse) -> Matrix:
        """Dense [n, buckets that count]: for training, where each pair of rows is compared."""
        columns = np.cumsum(self.idf > 0) - 1
        out = np.zeros((len(texts), int((self.idf > 0).sum())), np.float32)
        row = np.repeat(np.arange(len(texts)), np.diff(texts.offsets))
        counts = self.idf[texts.indices] > 0
        out[row[counts], columns[texts.indices[counts]]] = self.idf[texts.indices[counts]]
        out /= self._lengths(texts)[:, None].astype(np.float32)
        return out.astype(np.float32)

    def weights(self, rows: Matrix, dual: Matrix) -> Matrix:
        """[NUM_BUCKETS, k] such that `apply` gives the Gram matrix's product with `dual`."""
        out = np.zeros((NUM_BUCKETS, dual.shape[1]))
        out[self.idf > 0] = rows.T @ dual
        return out * self.idf[:, None]

    def apply(self, texts: Sparse, weights: Matrix) -> Matrix:
        return texts.sums(weights) / self._lengths(texts)[:, None]

    def _lengths(self, texts: Sparse) -> Matrix:
        return np.sqrt(np.maximum(texts.sums(self.idf**2), 1e-12))


@dataclass(frozen=True)
class FormBlock:
    center: Matrix  # [d]
    scale: Matrix  # [d]; 0 for what never varied
    directions: Matrix  # [d, NUM_COSINES]
    phases: Matrix  # [NUM_COSINES]

    def rows(self, values: Matrix) -> Matrix:
        values = np.where(np.isnan(values), self.center, values)  # what is not known is as usual
        standard = np.clip((values - self.center) * self.scale, -CUT, CUT)
        return np.asarray(np.sqrt(2 / len(self.phases)) * np.cos(standard @ self.directions + self.phases))


def text_block(texts: Sparse) -> TextBlock:
    counts = texts.counts()
    idf = np.where(counts >= MIN_TEXTS, np.log((len(texts) + 1) / (counts + 1)), 0.0)
    return TextBlock(np.maximum(idf, 0.0).astype(np.float32).astype(np.float64))


def form_block(values: Matrix, rng: np.random.Generator) -> FormBlock:
    """Random cosines stand for exp(-|a - b|^2 / 2 d): prompts of like form count as alike."""
    if (is_missing := np.isnan(values)).any():
        sums, counts = np.where(is_missing, 0.0, values).sum(axis=0), (~is_missing).sum(axis=0)
        values = np.where(is_missing, sums / np.maximum(counts, 1), values)
    deviation = values.std(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    num_used = max(int((scale > 0).sum()), 1)
    directions = rng.standard_normal((values.shape[1], NUM_COSINES)) / np.sqrt(num_used)
    return FormBlock(values.mean(axis=0), scale, directions, rng.uniform(0, 2 * np.pi, NUM_COSINES))

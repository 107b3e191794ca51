"""Ridge regression in its dual form, several targets at once, with exact leave-one-out predictions.

With Gram matrix K and c = (K + λ I)^-1 y the prediction of row i without row i is y_i - c_i / ((K + λ I)^-1)_ii: scores
that no row has helped to make, without refitting. They choose λ and the weights of the blocks of features, and they
are what calibration sees of the training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fit", "best_fit", "fit"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    penalty: float
    weights: tuple[float, ...]  # of each block's Gram matrix
    means: Matrix  # [k], of the targets
    dual: Matrix  # [n, k]
    left_out: Matrix  # [n, k], each row predicted by the others
    loss: float  # mean squared error of left_out against the targets' contrasts


def fit(grams: Sequence[Matrix], weights: Sequence[float], targets: Matrix, penalty: float) -> Fit:
    """`targets` [n, k]. The loss is that of the differences between a row's targets: routing needs nothing else; with
    k = 1 it is that of the target itself."""
    n = len(targets)
    system = np.zeros((n, n))
    for gram, weight in zip(grams, weights, strict=True):
        system += weight * gram
    system[np.diag_indices(n)] += penalty
    inverse = np.linalg.inv(system)
    means = targets.mean(axis=0)
    dual = inverse @ (targets - means)
    left_out = targets - dual / np.diag(inverse)[:, None]
    error = left_out - targets
    if error.shape[1] > 1:
        error = error - error.mean(axis=1, keepdims=True)
    return Fit(penalty, tuple(weights), means, dual, left_out, float((error**2).mean()))


def best_fit(
    grams: Sequence[Matrix], choices: Sequence[Sequence[float]], targets: Matrix, penalties: Sequence[float]
) -> Fit:
    """The fit of the least leave-one-out loss; among equals the first, so order choices from the plainest."""
    fits = [fit(grams, weights, targets, penalty) for weights in choices for penalty in penalties]
    return min(fits, key=lambda found: found.loss)

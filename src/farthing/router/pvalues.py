"""p-values for "the mean is no higher than it must be", valid at any number of rows: no normal approximation.

Each takes values in [0, 1] drawn independently and tests H: E[value] <= floor. A small p says that the mean is above.
"""

from math import ceil, e, exp, log

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["betting_p", "binomial_p", "hoeffding_bentkus_p", "mean_above_p"]

Vector = NDArray[np.float64]


def mean_above_p(values: Vector, floor: float) -> float:
    """The exact binomial where all values are 0 or 1, the betting martingale elsewhere: it knows the variance."""
    if not len(values) or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise InvalidRequest("a guarantee needs values between 0 and 1, at least one")
    if ((values == 0) | (values == 1)).all():
        return binomial_p(int(values.sum()), len(values), floor)
    return betting_p(values, floor)


def binomial_p(num_right: int, num_rows: int, floor: float) -> float:
    """P(Binomial(num_rows, floor) >= num_right)."""
    if floor <= 0 or num_right <= 0:
        return 0.0 if floor < 0 else float(num_right <= 0)
    if floor >= 1:
        return 1.0
    return min(1.0, float(np.exp(_log_binomial(num_rows, floor)[num_right:]).sum()))


def hoeffding_bentkus_p(values: Vector, floor: float) -> float:
    """The smaller of Hoeffding's and Bentkus's bounds on the mean loss 1 - value (Bates et al. 2021)."""
    num_rows, allowed, loss = len(values), 1 - floor, float(1 - values.mean())
    if allowed <= 0:
        return 1.0
    if allowed >= 1:
        return 0.0 if floor < 0 else 1.0
    capped = min(loss, allowed)
    first = capped * log(capped / allowed) if capped > 0 else 0.0
    second = (1 - capped) * log((1 - capped) / (1 - allowed)) if capped < 1 else 0.0
    hoeffding = exp(-num_rows * (first + second))
    num_losses = min(ceil(num_rows * loss - 1e-9), num_rows)
    bentkus = e * float(np.exp(_log_binomial(num_rows, allowed)[: num_losses + 1]).sum())
    return min(1.0, hoeffding, bentkus)


def betting_p(values: Vector, floor: float) -> float:
    """A gambler who bets against H, his stakes set by the rows before: his fortune is a test martingale, and 1 / its
    highest point a p-value (Waudby-Smith and Ramdas 2024; Ville's inequality)."""
    if floor <= 0:
        return 0.0 if floor < 0 or values.max() > 0 else 1.0
    if floor >= 1:
        return 1.0
    count = np.arange(1, len(values) + 1)
    mean = (0.5 + np.cumsum(values)) / (count + 1)
    variance = (0.25 + np.cumsum((values - mean) ** 2)) / (count + 1)
    before = np.concatenate([[0.25], variance[:-1]])  # a stake must not know its own row
    stakes = np.minimum(np.sqrt(2 * log(20) / (len(values) * before)), 0.75 / floor)
    fortune = np.cumsum(np.log1p(stakes * (values - floor)))
    return min(1.0, float(np.exp(-max(0.0, fortune.max()))))


def _log_binomial(num_rows: int, chance: float) -> Vector:
    """log P(Binomial = k) for k = 0 … num_rows, 0 < chance < 1."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num_rows + 1)))])
    k = np.arange(num_rows + 1)
    return np.asarray(
        factorials[-1] - factorials[k] - factorials[num_rows - k] + k * log(chance) + (num_rows - k) * log(1 - chance)
    )

"""Which of k models answers, from the quality expected of each: argmax of quality - price · cost, cheapest first.

One number, the price of a unit of cost in units of quality, spans every policy between "always the dearest" (minus
infinity) and "always the cheapest" (infinity). With two models it is a threshold on the expected gap. After an answer
the same rule asks whether another model is worth its price: what is spent already is spent.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["candidate_prices", "checked_costs", "choose", "next_model", "spent", "worths"]

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]
NUM_CANDIDATES = 41


def checked_costs(costs: Sequence[float]) -> Matrix:
    """Of one request to each model, in any one unit. Raises InvalidRequest unless they rise strictly from 0 or more."""
    found = np.array(costs, np.float64)
    if len(found) < 2 or not np.isfinite(found).all() or found[0] < 0 or (np.diff(found) <= 0).any():
        raise InvalidRequest(f"costs are {list(costs)}; allowed: two or more, each above the one before, from 0 up")
    return found


def choose(quality: Matrix, costs: Matrix, price: float) -> Indices:
    """Per row of `quality` [n, k] the model; of equals the cheaper."""
    if np.isinf(price):
        return np.full(len(quality), 0 if price > 0 else len(costs) - 1)
    return np.asarray(np.argmax(quality - price * costs, axis=1), np.int64)


def worths(
    quality: Sequence[float], costs: Sequence[float], spreads: Mapping[int, Sequence[float]], price: float
) -> Matrix:
    """What asking each model is worth, less its price. Where `spreads` has a model's chances of being right, its answer
    will be checked, and a dearer one can still be asked: so it is worth the mean of the better of the two."""
    found = np.zeros(len(quality))
    best = -np.inf
    for number in reversed(range(len(quality))):
        value = float(np.maximum(spreads[number], best).mean()) if number in spreads else quality[number]
        found[number] = value - price * costs[number]
        best = max(best, found[number])
    return found


def next_model(p_right: Matrix, worth: Matrix, price: float) -> Indices:
    """Per answer, right with `p_right`: 0 to keep it, or i to ask the i-th of the dearer models, where the expected
    loss of keeping it exceeds the price of the one that is worth most."""
    if np.isinf(price):
        return np.full(len(p_right), len(worth) if price < 0 else 0)
    best = int(np.argmax(worth))  # of equals the cheaper
    return np.where(worth[best] > p_right, best + 1, 0)


def spent(chosen: Indices, costs: Matrix) -> Matrix:
    """What each request costs where one model is asked."""
    return np.asarray(costs[chosen])


def candidate_prices(ratios: Matrix, num: int = NUM_CANDIDATES) -> list[float]:
    """Prices from "always the dearest" to "always the cheapest" whose steps divide the training rows evenly.

    `ratios`: gains of quality per unit of cost on the training rows. They must not be known from the rows that
    calibrate: that is what keeps the guarantee.
    """
    inner = np.unique(np.quantile(ratios, np.linspace(0, 1, num)[1:-1]))
    return [float("-inf"), *map(float, inner), float("inf")]

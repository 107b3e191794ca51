"""Mixed precision: which format each tensor takes, so that the expected loss is least under a budget.

A knapsack with one choice per tensor. Tensor by tensor, the largest first, all totals (bytes, loss) that are worth
keeping are extended by the tensor's options: a total goes when another has no more bytes and no more loss, or when
even the smallest choices for the rest no longer fit. Where more than MAX_TOTALS are left, the bytes are cut into that
many equal parts and each keeps its total of least loss; up to there the result is the best there is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest

__all__ = ["Option", "allocate"]

Ints = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

MAX_TOTALS = 4096


@dataclass(frozen=True)
class Option:
    """One way to store a tensor. `expected_loss` is what it adds to the model's loss, in any one unit."""

    format: str
    num_bytes: int
    expected_loss: float


def allocate(options: Mapping[str, Sequence[Option]], budget_bits: float) -> Mapping[str, Option]:
    """For each tensor one of its options, of least total loss: losses are taken to add up. Bytes times 8 never exceed
    `budget_bits`.

    Raises InvalidRequest where a tensor has no option, a loss is not a number, or even the smallest options are over
    the budget.
    """
    _check(options, budget_bits)
    names = sorted(options, key=lambda name: -max(option.num_bytes for option in options[name]))
    smallest = [min(option.num_bytes for option in options[name]) for name in names]
    left = sum(smallest)  # bytes of the smallest choices for the tensors to come
    num_bytes, loss = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[Ints, Ints]] = []  # of each total: the total it extends, the option it takes
    for name, least in zip(names, smallest, strict=True):
        left -= least
        choices = options[name]
        wider = num_bytes[:, None] + np.array([option.num_bytes for option in choices])  # [totals, options]
        losses = loss[:, None] + np.array([option.expected_loss for option in choices])
        kept = _worth_keeping(wider.reshape(-1), losses.reshape(-1), budget_bits / 8 - left)
        num_bytes, loss = wider.reshape(-1)[kept], losses.reshape(-1)[kept]
        steps.append((kept // len(choices), kept % len(choices)))
    at = int(loss.argmin()) if names else 0
    chosen: dict[str, Option] = {}
    for name, (before, option) in zip(reversed(names), reversed(steps), strict=True):
        chosen[name] = options[name][option[at]]
        at = int(before[at])
    return {name: chosen[name] for name in options}


def _check(options: Mapping[str, Sequence[Option]], budget_bits: float) -> None:
    for name, choices in options.items():
        if not choices:
            raise InvalidRequest(f"tensor {name} has no format to choose from")
        for option in choices:
            if not math.isfinite(option.expected_loss):
                raise InvalidRequest(f"tensor {name}: the loss of {option.format} is {option.expected_loss}")
    least = 8 * sum(min(option.num_bytes for option in choices) for choices in options.values())
    if not least <= budget_bits:
        raise InvalidRequest(
            f"the budget is {budget_bits:,.0f} bits; the smallest formats on offer need {least:,}: raise the budget"
        )


def _worth_keeping(num_bytes: Ints, loss: F64, most: float) -> Ints:
    """Which totals to keep, by rising bytes and falling loss; at most MAX_TOTALS."""
    order = np.lexsort((loss, num_bytes))
    order = order[num_bytes[order] <= most]
    least = np.minimum.accumulate(loss[order])
    is_better = np.append(True, least[1:] < least[:-1])
    kept: Ints = order[is_better]
    if len(kept) <= MAX_TOTALS:
        return kept
    low, high = num_bytes[kept[0]], num_bytes[kept[-1]]
    part = (num_bytes[kept] - low) * MAX_TOTALS // (high - low + 1)
    thinned: Ints = kept[np.append(part[1:] != part[:-1], True)]  # the last of a part has its least loss
    return thinned

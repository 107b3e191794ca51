"""What the small model's own numbers say of its answer: log-probabilities, margins, agreement with short samples."""

from collections.abc import Sequence
from math import exp, nan

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import words
from farthing.router.checks import final_number
from farthing.upstreams.call import TokenLogprob

__all__ = ["SIGNAL_NAMES", "agreement", "confidence", "signals"]

SIGNAL_NAMES = ("mean_logprob", "min_logprob", "mean_margin", "min_margin", "agreement")
LEAST = -30.0  # a logarithm that a sum survives


def signals(logprobs: Sequence[TokenLogprob], answer: str, samples: Sequence[str]) -> NDArray[np.float64]:
    """In the order of SIGNAL_NAMES; nan where nothing is known."""
    found = np.full(len(SIGNAL_NAMES), nan)
    if logprobs:
        chosen = np.array([max(entry.logprob, LEAST) for entry in logprobs])
        found[:2] = chosen.mean(), chosen.min()
    margins = [max(entry.top[0][2], LEAST) - max(entry.top[1][2], LEAST) for entry in logprobs if len(entry.top) > 1]
    if margins:
        found[2:4] = sum(margins) / len(margins), min(margins)
    if samples:
        found[4] = agreement(answer, samples)
    return found


def confidence(logprobs: Sequence[TokenLogprob]) -> float | None:
    """The geometric mean of the chosen tokens' probabilities."""
    if not logprobs:
        return None
    return exp(sum(max(entry.logprob, LEAST) for entry in logprobs) / len(logprobs))


def agreement(answer: str, samples: Sequence[str]) -> float:
    """Mean over the samples, 0 to 1: the same final number where both mark one, else the share of words in common with
    as much of the answer as the sample is long."""
    number, said = final_number(answer), words(answer)
    found = []
    for sample in samples:
        other, heard = final_number(sample), words(sample)
        if number is not None and other is not None:
            found.append(float(number == other))
            continue
        mine, theirs = set(said[: len(heard)]), set(heard)
        both = len(mine) + len(theirs)
        found.append(2 * len(mine & theirs) / both if both else 1.0)
    return sum(found) / len(found)

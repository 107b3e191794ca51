"""Which samples a step trains on: a pure function of the seed and the step, so that a resumed run needs no memory."""

from collections.abc import Sequence

import numpy as np

__all__ = ["epoch_batches", "length_batches", "steps_per_epoch"]

_GROUP = 16  # batches whose samples are sorted by length together: little padding, and still much chance


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    return -(-num_samples // batch_size)


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Every sample once, in batches of about the same length, in an order that each epoch draws anew."""
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(lengths))
    sizes = np.asarray(lengths)
    batches: list[list[int]] = []
    for first in range(0, len(order), _GROUP * batch_size):
        group = order[first : first + _GROUP * batch_size]
        group = group[np.argsort(sizes[group], kind="stable")]
        batches += [group[i : i + batch_size].tolist() for i in range(0, len(group), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every sample once, sorted by length: for evaluation."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

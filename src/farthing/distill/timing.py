"""How long a request takes in each of several models: in turn, round after round, so that a machine that is slower for
a while is slower for all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

__all__ = ["interleaved", "medians"]


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    num_rounds: int = 5,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, tuple[float, ...]]:
    """The seconds of each run in each round; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number > 0:
                seconds[name].append(clock() - started)
    return {name: tuple(values) for name, values in seconds.items()}


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of the rounds of each run."""
    return {name: median(values) for name, values in seconds.items()}

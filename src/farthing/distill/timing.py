"""How long a request takes in each of several models: in turn, round after round, so that a machine that is slower for
a while is slower for all of them."""

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["interleaved"]


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    num_rounds: int = 5,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median seconds of each run over the rounds; one round before them is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number > 0:
                seconds[name].append(clock() - started)
    return {name: median(values) for name, values in seconds.items()}

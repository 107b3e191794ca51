"""How many cores there are for this process."""

import os

__all__ = ["MAX_THREADS", "default_threads", "num_cores"]

MAX_THREADS = 256  # of one program, as csrc/bindings.cpp has it


def num_cores() -> int:
    """Cores that this process may use; where the system does not say, all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """One for each core, as far as a program may have so many."""
    return min(num_cores(), MAX_THREADS)

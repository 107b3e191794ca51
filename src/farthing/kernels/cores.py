"""How many cores there are for this process."""

import os

__all__ = ["num_cores"]


def num_cores() -> int:
    """Cores that this process may use; where the system does not say, all of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

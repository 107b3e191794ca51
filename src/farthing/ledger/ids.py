"""Names for rows, reservations, keys: unique without asking anybody, in the order of their time."""

import os
import time

__all__ = ["new_id", "now_us"]


def now_us() -> int:
    return time.time_ns() // 1000


def new_id(at_us: int | None = None) -> str:
    """14 hexadecimal digits of the time in microseconds, 16 of chance."""
    return f"{now_us() if at_us is None else at_us:014x}{os.urandom(8).hex()}"

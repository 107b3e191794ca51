"""Whether anything else computed during a measurement: seconds of all cores that were not ours."""

import os
from pathlib import Path

__all__ = ["Others"]

STAT = Path("/proc/stat")


class Others:
    """A context manager; afterwards `seconds` of processor time that went to others than this process and the children
    that ended meanwhile. None where the system does not tell. Time that the host took away is not in it."""

    seconds: float | None = None

    def __enter__(self) -> "Others":
        self._before = _all_s(), _own_s()
        return self

    def __exit__(self, *_: object) -> None:
        before, now = self._before[0], _all_s()
        if before is not None and now is not None:
            self.seconds = max(0.0, now - before - (_own_s() - self._before[1]))


def _all_s() -> float | None:
    try:
        user, nice, system = STAT.read_text().split(maxsplit=4)[1:4]
    except (OSError, ValueError):
        return None
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

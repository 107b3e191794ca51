"""Remembers an upstream that just failed, so that not every call waits for it to fail again.

closed ── 3 failures in a row ──> open ── 10 s (doubled each time, at most 60) ──> half-open: one call tries
   ^                                ^──────────── fails ─────────────────────────────┤
   └──────────────────────────────────────────── succeeds ───────────────────────────┘
"""

from collections.abc import Callable

__all__ = ["Breaker"]

MAX_FAILURES = 3
OPEN_S = 10.0
MAX_OPEN_S = 60.0


class Breaker:
    """clock: seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._num_failures = 0
        self._open_s = OPEN_S
        self._until_s: float | None = None  # open until then
        self._is_tried = False  # half-open: somebody tries

    def allows(self) -> bool:
        """Whether a call may try it now. True while half-open makes that call the one that tries: tell how it ended."""
        if self._until_s is None:
            return True
        if self._is_tried or self._clock() < self._until_s:
            return False
        self._is_tried = True
        return True

    def succeeded(self) -> None:
        self._num_failures, self._open_s, self._until_s, self._is_tried = 0, OPEN_S, None, False

    def failed(self) -> None:
        self._num_failures += 1
        if self._until_s is not None and self._is_tried:
            self._open_s = min(self._open_s * 2, MAX_OPEN_S)
        if self._is_tried or self._num_failures >= MAX_FAILURES:
            self._until_s = self._clock() + self._open_s
        self._is_tried = False

    def gave_up(self) -> None:
        """The call ended without a verdict: its client left, or what it sent was refused."""
        self._is_tried = False

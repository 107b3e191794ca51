"""What a local call may still spend. Its dollars show only as it runs, so it gets them in tranches.

    granted ---------------------------------|   more is asked for when less than half a tranche is left; in the
    used --------------------|step|              background, so that the engine does not wait

A call ends when its next step, taken to be as long as its last, is not covered by its own grant: so a budget is rarely
overshot at all. That it never is by more than a step, whatever steps cost, is its purse's doing (purse.py).
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.ledger.errors import LedgerAway
from farthing.ledger.purse import Purses, Share
from farthing.ledger.reservation import Extension, Hold, extend

if TYPE_CHECKING:
    from farthing.ledger.writer import Writer

__all__ = ["LocalAllowance"]

MAX_WAIT_S = 0.1  # for an extension that is on its way, when there is nothing left to go on with
STEPS_AHEAD = 32  # that an extension is worth, at least


class LocalAllowance:
    """call.Allowance. Asked by one thread, the engine's; extensions come back in the writer's."""

    def __init__(
        self,
        writer: "Writer",
        hold: Hold,
        instance_id: str,
        purses: Purses,
        share: Share,
        tranche_pico: int,
        cost_pico: Callable[[Usage], int],
    ) -> None:
        self._writer, self._hold, self._instance_id = writer, hold, instance_id
        self._purses, self._share = purses, share
        self._tranche, self._cost_pico = tranche_pico, cost_pico
        self._output_tokens = self._next_step = 0
        self._answered = threading.Event()
        self._answered.set()

    def charge(self, usage: Usage) -> None:
        used = self._cost_pico(usage)
        # The step that ends the prompt says nothing about the next one, which makes a single token.
        is_like_last = usage.output_tokens == 0 or self._output_tokens > 0
        self._next_step = used - self._share.spent if is_like_last else 0
        self._output_tokens = usage.output_tokens
        self._share.spend(used)
        if used + self._wanted // 2 >= self._share.granted:
            self._ask()

    def covers(self) -> bool:
        if self._is_covered:
            return True
        self._ask()
        self._answered.wait(MAX_WAIT_S)
        return self._is_covered

    @property
    def _is_covered(self) -> bool:
        return self._share.spent + self._next_step < self._share.granted and self._share.room > 0

    @property
    def _wanted(self) -> int:
        """With what others overspent, where this call is to go on all the same."""
        return max(self._tranche, STEPS_AHEAD * self._next_step) - min(0, self._share.room)

    def _ask(self) -> None:
        """For more, unless an answer is on its way."""
        if not self._answered.is_set():
            return
        self._answered.clear()
        wanted, forced = self._wanted, self._share.spent - self._share.granted
        try:
            hold, instance_id = self._hold, self._instance_id
            self._writer.call(lambda database: extend(database, hold, instance_id, wanted, forced), self._extended)
        except LedgerAway:
            self._answered.set()

    def _extended(self, extension: Extension | None, _: Exception | None) -> None:
        if extension is not None:
            self._purses.extend(self._hold, extension)
        self._answered.set()

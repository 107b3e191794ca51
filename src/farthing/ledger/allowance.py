"""What a local call may still spend. Its dollars show only as it runs, so it gets them in tranches.

    granted ---------------------------------|   more is asked for when less than half a tranche is left; in the
    used --------------------|step|              background, so that the engine does not wait

The engine asks after each step. A call ends when its next step, taken to be as long as its last, is not covered.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.ledger.errors import LedgerAway
from farthing.ledger.reservation import Hold, extend

if TYPE_CHECKING:
    from farthing.ledger.writer import Writer

__all__ = ["LocalAllowance"]

MAX_WAIT_S = 0.1  # for an extension that is on its way, when there is nothing left to go on with
STEPS_AHEAD = 32  # that an extension is worth, at least


class LocalAllowance:
    """call.Allowance. covers is called by one thread, the engine's; extensions come back in the writer's."""

    def __init__(
        self,
        writer: "Writer",
        hold: Hold,
        instance_id: str,
        granted_pico: int,
        tranche_pico: int,
        cost_pico: Callable[[Usage], int],
    ) -> None:
        self._writer, self._hold, self._instance_id = writer, hold, instance_id
        self._granted, self._tranche, self._cost_pico = granted_pico, tranche_pico, cost_pico
        self._used = self._output_tokens = 0
        self._answered = threading.Event()
        self._answered.set()

    def covers(self, usage: Usage) -> bool:
        used = self._cost_pico(usage)
        step = used - self._used
        # The step that ends the prompt says nothing about the next one, which makes a single token.
        is_like_last = usage.output_tokens == 0 or self._output_tokens > 0
        self._used, self._output_tokens = used, usage.output_tokens
        next_step = step if is_like_last else 0
        wanted = max(self._tranche, STEPS_AHEAD * next_step)
        if used + wanted // 2 >= self._granted and self._answered.is_set():
            self._ask(wanted, used - self._granted)
        if used + next_step < self._granted:
            return True
        self._answered.wait(MAX_WAIT_S)
        return used + next_step < self._granted

    def _ask(self, wanted_pico: int, forced_pico: int) -> None:
        self._answered.clear()
        try:
            hold, instance_id = self._hold, self._instance_id
            self._writer.call(
                lambda database: extend(database, hold, instance_id, wanted_pico, forced_pico), self._extended
            )
        except LedgerAway:
            self._answered.set()

    def _extended(self, granted_pico: int | None, _: Exception | None) -> None:
        self._granted += granted_pico or 0
        self._answered.set()

"""Dollars of calls to this machine's own models: what they begin with, which may go on, what becomes of the rest."""

import asyncio
from typing import Any

from farthing.economics.charge import Pricer
from farthing.economics.usage import Usage
from farthing.ledger.allowance import LocalAllowance
from farthing.ledger.holding import tranche_pico
from farthing.ledger.purse import Purses
from farthing.ledger.records import Entry
from farthing.ledger.reservation import Hold, Refusal, rooms_of
from farthing.ledger.writer import Writer
from farthing.upstreams.call import Tally

__all__ = ["LocalDollars"]

_NEWEST = 0.2  # weight of the newest measurement in a running mean


class LocalDollars:
    def __init__(self, writer: Writer, pricer: Pricer, instance_id: str) -> None:
        self._writer, self._pricer, self._instance_id = writer, pricer, instance_id
        self._purses = Purses()
        self._s_per_input_token: dict[str, float] = {}  # of models

    def learn(self, tally: Tally) -> None:
        """How long a model takes for a token of a prompt: what the next call's first tranche is made for."""
        usage = tally.usage
        computed = usage.input_tokens - usage.cache_read_tokens
        if tally.is_local and computed > 0 and usage.input_s > 0:
            pace, model = usage.input_s / computed, tally.model
            self._s_per_input_token[model] = pace + (self._s_per_input_token.get(model, pace) - pace) * (1 - _NEWEST)

    def price(self, model: str, usage: Usage) -> int | None:
        """What an input would cost now, by the measured pace; None before there is one, or without a price."""
        pace = self._s_per_input_token.get(model)
        if pace is None:
            return None
        return self._pricer.local(Usage(input_s=(usage.input_tokens - usage.cache_read_tokens) * pace)).total_pico

    def tranche(self, model: str, usage: Usage) -> int:
        return tranche_pico(self._pricer, usage, self._s_per_input_token.get(model, 0.0))

    def reserved(self, result: Hold | Refusal | None, _: Exception | None) -> None:
        """The writer's callback of a reservation."""
        if isinstance(result, Hold):
            self._purses.open(result)

    def released(self, reservation_id: str) -> None:
        """Of a call that was never made. In the writer's thread."""
        self._purses.close(reservation_id, None)

    def allowance(self, hold: Hold, tranche: int) -> LocalAllowance | None:
        """None where no dollars were reserved for a local call."""
        share = self._purses.share(hold.reservation_id)
        if share is None:
            return None

        def cost_pico(usage: Usage) -> int:
            return self._pricer.local(usage).total_pico or 0

        return LocalAllowance(self._writer, hold, self._instance_id, self._purses, share, tranche, cost_pico)

    def submit(self, entry: Entry, hold: Hold) -> "asyncio.Future[Any]":
        """Write what settles a call, and from its commit on hold nothing for it."""
        held = hold.local_dollars
        if not held:
            return self._writer.submit_entry(entry)
        budgets, windows_us = [room.budget for room, _ in held], [room.window_us for room, _ in held]
        return self._writer.submit_entry(
            entry,
            lambda database: rooms_of(database, budgets, windows_us),
            lambda rooms, _: self._purses.close(hold.reservation_id, rooms),
        )

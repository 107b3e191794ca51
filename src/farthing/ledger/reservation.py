"""Reservations: what a call may use at most is set aside before it is made, and becomes what it used when it ends.

    room = amount - used - reserved      reserve, extend: reserved +      settle: reserved - all of it, used + actual

Everything here runs in one write transaction, which no other one overlaps, so what was read as room is there. Events
are append-only; counters and open_reservations are their sums, kept in the same transaction (see check.py).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.economics.usage import Usage
from farthing.ledger.budget import Budget
from farthing.ledger.database import Database
from farthing.ledger.ids import new_id, now_us

__all__ = ["Ask", "Hold", "Refusal", "Room", "count_request", "extend", "reserve", "room_of"]


@dataclass(frozen=True, slots=True)
class Room:
    """A budget's state in the window that holds now."""

    budget: Budget
    window_us: int
    used: int
    reserved: int

    @property
    def left(self) -> int:
        return self.budget.amount - self.used - self.reserved


@dataclass(frozen=True, slots=True)
class Refusal:
    """needed: what did not fit, in the budget's unit; None where its price is not known."""

    room: Room
    needed: int | None


@dataclass(frozen=True, slots=True)
class Ask:
    """cost_pico(usage) is the price of a hosted call, None where it is not known. A local call's cost shows only as it
    runs: tranche_pico is what it begins with (0 for hosted ones)."""

    reservation_id: str
    instance_id: str
    budgets: Sequence[Budget]
    usage: Usage  # at most
    cost_pico: Callable[[Usage], int | None]
    is_local: bool
    tranche_pico: int
    attempt: dict[str, Any]  # the row to be written if this process is killed


@dataclass(frozen=True, slots=True)
class Hold:
    """What was set aside: in each budget's unit, and as the output tokens that fit."""

    reservation_id: str
    amounts: tuple[tuple[Room, int], ...]  # the room as it was before
    max_output_tokens: int
    is_lowered: bool  # a budget, not the call, set max_output_tokens
    is_local: bool


def room_of(database: Database, budget: Budget, window_us: int | None = None) -> Room:
    window_us = budget.window_us(now_us()) if window_us is None else window_us
    sql = "SELECT used, reserved FROM counters WHERE budget_id = ? AND window_us = ?"
    used, reserved = database.execute(sql, (budget.id, window_us)).fetchone() or (0, 0)
    return Room(budget, window_us, used, reserved)


def reserve(database: Database, ask: Ask) -> Hold | Refusal:
    """All budgets together or none. Where the upper bound does not fit, as many output tokens as do."""
    rooms = [room_of(database, budget) for budget in ask.budgets]
    output_tokens = ask.usage.output_tokens
    for room in rooms:
        if room.budget.unit == "requests":
            continue
        if room.budget.unit == "usd" and ask.is_local:
            if room.left <= 0:
                return Refusal(room, 1)
            continue
        fitting = _fitting(room, ask, output_tokens)
        if isinstance(fitting, Refusal):
            return fitting
        output_tokens = fitting
    tranche = min([ask.tranche_pico, *(room.left for room in rooms if room.budget.unit == "usd")])
    amounts = []
    for room in rooms:
        amount = tranche if ask.is_local else ask.cost_pico(_with_output(ask.usage, output_tokens)) or 0
        if room.budget.unit == "tokens":
            amount = ask.usage.input_tokens + output_tokens
        if room.budget.unit != "requests":
            amounts.append((room, amount))
    for number, (room, amount) in enumerate(amounts):
        attempt = json.dumps(ask.attempt) if number == 0 else None
        _event(database, ask.reservation_id, room, "reserve", amount, ask.instance_id, ask.is_local, attempt)
        database.execute(
            "INSERT INTO open_reservations (reservation_id, budget_id, window_us, reserved, instance_id)"
            " VALUES (?, ?, ?, ?, ?)",
            (ask.reservation_id, room.budget.id, room.window_us, amount, ask.instance_id),
        )
        add_to_counter(database, room.budget.id, room.window_us, 0, amount)
    is_lowered = output_tokens < ask.usage.output_tokens
    return Hold(ask.reservation_id, tuple(amounts), output_tokens, is_lowered, ask.is_local)


def extend(database: Database, hold: Hold, instance_id: str, wanted_pico: int, forced_pico: int) -> int:
    """Dollars for a local call that goes on: as many as there is room for up to wanted_pico, but forced_pico, which it
    has used already, in any case. Returns how many; 0 where somebody closed the reservation."""
    sql = "SELECT 1 FROM open_reservations WHERE reservation_id = ?"
    if database.execute(sql, (hold.reservation_id,)).fetchone() is None:
        return 0
    rooms = [room_of(database, room.budget, room.window_us) for room, _ in hold.amounts if room.budget.unit == "usd"]
    granted = max(min([wanted_pico, *(room.left for room in rooms)]), forced_pico)
    if granted <= 0:
        return 0
    for room in rooms:
        _event(database, hold.reservation_id, room, "extend", granted, instance_id, hold.is_local, None)
        database.execute(
            "UPDATE open_reservations SET reserved = reserved + ? WHERE reservation_id = ? AND budget_id = ?",
            (granted, hold.reservation_id, room.budget.id),
        )
        add_to_counter(database, room.budget.id, room.window_us, 0, granted)
    return granted


def count_request(database: Database, budgets: Sequence[Budget], instance_id: str) -> Refusal | None:
    """One request more for each budget in requests, or none where one of them is used up."""
    rooms = [room_of(database, budget) for budget in budgets]
    for room in rooms:
        if room.left < 1:
            return Refusal(room, 1)
    reservation_id = new_id()
    for room in rooms:
        _event(database, reservation_id, room, "settle", 1, instance_id, False, None)
        add_to_counter(database, room.budget.id, room.window_us, 1, 0)
    return None


def add_to_counter(database: Database, budget_id: str, window_us: int, used: int, reserved: int) -> None:
    database.execute(
        "INSERT INTO counters (budget_id, window_us, used, reserved) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (budget_id, window_us) DO UPDATE SET"
        " used = counters.used + excluded.used, reserved = counters.reserved + excluded.reserved",
        (budget_id, window_us, used, reserved),
    )


def _fitting(room: Room, ask: Ask, output_tokens: int) -> int | Refusal:
    """How many output tokens fit, at least one (or none where none was asked for)."""
    least = min(1, output_tokens)
    if room.budget.unit == "tokens":
        fitting = min(output_tokens, room.left - ask.usage.input_tokens)
        return fitting if fitting >= least else Refusal(room, ask.usage.input_tokens + least)
    costs = ask.cost_pico(_with_output(ask.usage, output_tokens))
    if costs is None:
        return Refusal(room, None)
    if costs <= room.left:
        return output_tokens
    low, high = least - 1, output_tokens  # low fits (or is too few), high does not
    while high - low > 1:
        middle = (low + high) // 2
        fits = (ask.cost_pico(_with_output(ask.usage, middle)) or 0) <= room.left
        low, high = (middle, high) if fits else (low, middle)
    return low if low >= least else Refusal(room, ask.cost_pico(_with_output(ask.usage, least)))


def _with_output(usage: Usage, output_tokens: int) -> Usage:
    return Usage(
        usage.input_tokens,
        usage.cache_read_tokens,
        output_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )


def _event(
    database: Database,
    reservation_id: str,
    room: Room,
    event: str,
    amount: int,
    instance_id: str,
    is_local: bool,
    attempt: str | None,
) -> None:
    database.execute(
        "INSERT INTO reservations"
        " (id, reservation_id, budget_id, window_us, event, amount, at_us, instance_id, is_local, attempt)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new_id(),
            reservation_id,
            room.budget.id,
            room.window_us,
            event,
            amount,
            now_us(),
            instance_id,
            int(is_local),
            attempt,
        ),
    )

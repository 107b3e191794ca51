"""Reservations: what a call may use at most is set aside before it is made, and becomes what it used when it ends.

    room = amount - used - reserved      reserve, extend: reserved +      settle: reserved - all of it, used + actual

Everything here runs in one write transaction, which no other one overlaps, so what was read as room is there. Events
are append-only; counters and open_reservations are their sums, kept in the same transaction (see check.py).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from farthing.economics.usage import Usage
from farthing.ledger.budget import Budget
from farthing.ledger.database import Database
from farthing.ledger.events import NO_BUDGET, Event, add_to_counters, write_events
from farthing.ledger.ids import new_id, now_us

__all__ = ["Ask", "Extension", "Hold", "Refusal", "Room", "count_request", "extend", "reserve", "rooms_of"]


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
    num_choices: int = 1  # each gets the same share of the output tokens, and one of them at least


@dataclass(frozen=True, slots=True)
class Hold:
    """What was set aside: in each budget's unit, and as the output tokens that fit."""

    reservation_id: str
    amounts: tuple[tuple[Room, int], ...]  # the room as it was before
    max_output_tokens: int
    is_lowered: bool  # a budget, not the call, set max_output_tokens
    is_local: bool

    @property
    def is_bound(self) -> bool:
        """Whether a budget sets an end to a hosted answer."""
        return bool(self.amounts) and not self.is_local

    @property
    def local_dollars(self) -> tuple[tuple[Room, int], ...]:
        """What a local call holds of budgets in dollars: the same amount of each."""
        return tuple(held for held in self.amounts if self.is_local and held[0].budget.unit == "usd")


@dataclass(frozen=True, slots=True)
class Extension:
    """Pico-dollars more for a local call, and the rooms they came from, as they were before."""

    granted: int
    rooms: tuple[Room, ...] = ()


def rooms_of(database: Database, budgets: Sequence[Budget], windows_us: Sequence[int] | None = None) -> list[Room]:
    """In the same order; in the windows that hold now, or in those given."""
    if not budgets:
        return []
    at_us = now_us()
    if windows_us is None:
        windows_us = [budget.window_us(at_us) for budget in budgets]
    names = [(budget.id, window_us) for budget, window_us in zip(budgets, windows_us, strict=True)]
    sql = "SELECT budget_id, window_us, used, reserved FROM counters WHERE " + " OR ".join(
        ["(budget_id = ? AND window_us = ?)"] * len(names)
    )
    found = database.execute(sql, [value for name in names for value in name]).fetchall()
    kept = {(budget_id, window_us): (used, reserved) for budget_id, window_us, used, reserved in found}
    return [Room(budget, name[1], *kept.get(name, (0, 0))) for budget, name in zip(budgets, names, strict=True)]


def reserve(database: Database, ask: Ask) -> Hold | Refusal:
    """All budgets together or none. Where the upper bound does not fit, as many output tokens as do.

    A hosted call leaves a trace also without budgets: should this process be killed, its provider may bill it. A local
    one needs none.
    """
    rooms = rooms_of(database, ask.budgets)
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
    if amounts or not ask.is_local:
        _open(database, ask, amounts)
    is_lowered = output_tokens < ask.usage.output_tokens
    return Hold(ask.reservation_id, tuple(amounts), output_tokens, is_lowered, ask.is_local)


def extend(database: Database, hold: Hold, instance_id: str, wanted_pico: int, forced_pico: int) -> Extension:
    """Dollars for a local call that goes on: as many as there is room for up to wanted_pico, but forced_pico, which it
    has used already, in any case. None where somebody closed the reservation."""
    sql = "SELECT 1 FROM open_reservations WHERE reservation_id = ?"
    if database.execute(sql, (hold.reservation_id,)).fetchone() is None:
        return Extension(0)
    held = [room for room, _ in hold.local_dollars]
    rooms = rooms_of(database, [room.budget for room in held], [room.window_us for room in held])
    granted = max(0, min([wanted_pico, *(room.left for room in rooms)]), forced_pico)
    if granted == 0 or not rooms:
        return Extension(0, tuple(rooms))
    named = [(hold.reservation_id, room.budget.id, room.window_us) for room in rooms]
    write_events(database, [Event(*name, "extend", granted, instance_id, hold.is_local) for name in named])
    database.execute(
        "UPDATE open_reservations SET reserved = reserved + ? WHERE reservation_id = ? AND budget_id IN"
        f" ({', '.join('?' * len(rooms))})",
        (granted, hold.reservation_id, *(room.budget.id for room in rooms)),
    )
    add_to_counters(database, [(room.budget.id, room.window_us, 0, granted) for room in rooms])
    return Extension(granted, tuple(rooms))


def count_request(database: Database, budgets: Sequence[Budget], instance_id: str) -> Refusal | None:
    """One request more for each budget in requests, or none where one of them is used up."""
    rooms = rooms_of(database, budgets)
    for room in rooms:
        if room.left < 1:
            return Refusal(room, 1)
    reservation_id = new_id()
    named = [(reservation_id, room.budget.id, room.window_us) for room in rooms]
    write_events(database, [Event(*name, "settle", 1, instance_id, False) for name in named])
    add_to_counters(database, [(room.budget.id, room.window_us, 1, 0) for room in rooms])
    return None


def _open(database: Database, ask: Ask, amounts: Sequence[tuple[Room, int]]) -> None:
    named = [(room.budget.id, room.window_us, amount) for room, amount in amounts] or [(NO_BUDGET, 0, 0)]
    events = [
        Event(ask.reservation_id, budget_id, window_us, "reserve", amount, ask.instance_id, ask.is_local)
        for budget_id, window_us, amount in named
    ]
    events[0] = replace(events[0], attempt=json.dumps(ask.attempt, separators=(",", ":")))
    write_events(database, events)
    database.execute(
        "INSERT INTO open_reservations (reservation_id, budget_id, window_us, reserved, instance_id, is_local) VALUES "
        + ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(events)),
        [
            value
            for event in events
            for value in (
                event.reservation_id,
                event.budget_id,
                event.window_us,
                event.amount,
                event.instance_id,
                int(event.is_local),
            )
        ],
    )
    add_to_counters(database, [(event.budget_id, event.window_us, 0, event.amount) for event in events])


def _fitting(room: Room, ask: Ask, output_tokens: int) -> int | Refusal:
    """How many output tokens fit, at least one for each choice (or none where none was asked for)."""
    least = min(ask.num_choices, output_tokens)
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

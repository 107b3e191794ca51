"""What this process's local calls were granted of each dollar budget, and what they have spent of it together.

Nobody knows what a step of an engine will cost, so no reservation before it can be trusted to cover it. What can be
known is what was spent: a call is in a step only while, in every budget that pays for it, its process has spent less
than it was granted. Grants are no more than the budget, so

    spent < granted <= budget   before a step      spent <= budget + the step's cost   after it

whatever the step costs, and whatever anybody had expected. A call that overshoots its own grant takes from those of
the others, which end before their next step where nothing is left. Where several engines (of other models, of other
processes) work for one budget at once, each may be in a step when it is used up: one step of each, then.

    room = spare (granted - spent, of the calls under way) + left, where it is negative - debt

left is the budget's in the ledger at the last event of ours. Somebody's overshoot makes it negative when it is recorded
there; until then it is in spare, whoever's it is. debt is what a call overshot whose settlement waits for a database
that is away: the ledger learns of it when nobody here is told, so it is kept as long as this process lives.

Grants change in the writer's thread, in the order of its commits; the engines' threads spend.
"""

import threading
from collections.abc import Sequence

from farthing.ledger.reservation import Extension, Hold, Room

__all__ = ["Purses", "Share"]


class _Purse:
    __slots__ = ("debt", "left", "num_shares", "spare")

    def __init__(self) -> None:
        self.left = self.spare = self.debt = self.num_shares = 0

    @property
    def room(self) -> int:
        return self.spare + min(0, self.left) - self.debt


class Share:
    """One call's, the same amount in every purse; pico-dollars."""

    __slots__ = ("_lock", "_purses", "granted", "spent")

    def __init__(self, granted: int, purses: Sequence[_Purse], lock: threading.Lock) -> None:
        self.granted, self.spent = granted, 0
        self._purses, self._lock = purses, lock

    def spend(self, pico: int) -> None:
        """pico: all that the call has used by now."""
        with self._lock:
            for purse in self._purses:
                purse.spare -= pico - self.spent
            self.spent = pico

    @property
    def room(self) -> int:
        """Of the purse that has least."""
        with self._lock:
            return min(purse.room for purse in self._purses)


class Purses:
    """One for each budget and window from which a local call is under way here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._purses: dict[tuple[str, int], _Purse] = {}
        self._shares: dict[str, tuple[Share, tuple[tuple[str, int], ...]]] = {}  # by reservation

    def share(self, reservation_id: str) -> Share | None:
        """None where no dollars were reserved for a local call."""
        with self._lock:
            found = self._shares.get(reservation_id)
        return None if found is None else found[0]

    def open(self, hold: Hold) -> None:
        """It is committed that a call begins with what it holds."""
        dollars = hold.local_dollars
        if not dollars:
            return
        with self._lock:
            granted = dollars[0][1]
            names = tuple(_name(room) for room, _ in dollars)
            purses = [self._purses.setdefault(name, _Purse()) for name in names]
            for purse, (room, _) in zip(purses, dollars, strict=True):
                purse.num_shares += 1
                purse.spare += granted
                purse.left = room.left - granted
            self._shares[hold.reservation_id] = Share(granted, purses, self._lock), names

    def extend(self, hold: Hold, extension: Extension) -> None:
        """It is committed that a call got more, or nothing."""
        with self._lock:
            share, _ = self._shares.get(hold.reservation_id, (None, ()))
            if share is None:
                return
            share.granted += extension.granted
            for room in extension.rooms:
                purse = self._purses[_name(room)]
                purse.spare += extension.granted
                purse.left = room.left - extension.granted

    def close(self, reservation_id: str, rooms: Sequence[Room] | None) -> None:
        """It is committed that a call was charged what it spent, and rooms are the budgets' after that. None: the
        ledger will hear of it later."""
        with self._lock:
            share, names = self._shares.pop(reservation_id, (None, ()))
            if share is None:
                return
            for name in names:
                purse = self._purses[name]
                purse.num_shares -= 1
                purse.spare -= share.granted - share.spent
                if rooms is None:
                    purse.debt += max(0, share.spent - share.granted)
            for room in rooms or ():
                self._purses[_name(room)].left = room.left
            for name in names:
                if not (self._purses[name].num_shares or self._purses[name].debt):
                    del self._purses[name]


def _name(room: Room) -> tuple[str, int]:
    return room.budget.id, room.window_us

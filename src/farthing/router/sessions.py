"""Where a conversation's prefix is cached, and whether moving it is cheaper than staying.

    staying   P_s · (d · prefix + new)      d · P_s is the price of a token read from the cache
    moving    P_w · (prefix + new)          of a cascade, plus the chance to come back · staying

Both are prices of an input, as the ledger would bill them: what the answer will cost is the same question for both.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from farthing.economics.usage import Usage

__all__ = ["Seat", "Sessions", "moving_ratio"]

Price = Callable[[Usage], int | None]  # pico-dollars of an input; None where not known


@dataclass(frozen=True, slots=True)
class Seat:
    member: int
    num_tokens: int  # of the conversation, that this member has in its cache


class Sessions:
    """The longest unused is forgotten first, and what is older than `keep_s`. Belongs to the event loop."""

    def __init__(self, keep_s: float, most: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._most, self._clock_s = keep_s, most, clock_s
        self._seats: OrderedDict[bytes, tuple[float, Seat]] = OrderedDict()  # (expires at, seat)

    def __len__(self) -> int:
        return len(self._seats)

    def get(self, name: bytes | None) -> Seat | None:
        found = None if name is None else self._seats.get(name)
        if found is None or found[0] <= self._clock_s():
            return None
        return found[1]

    def put(self, name: bytes | None, seat: Seat) -> None:
        if name is None:
            return
        now_s = self._clock_s()
        self._seats[name] = (now_s + self._keep_s, seat)
        self._seats.move_to_end(name)
        while len(self._seats) > self._most or next(iter(self._seats.values()))[0] <= now_s:
            self._seats.popitem(last=False)


def moving_ratio(seat: Seat, num_input: int, stay: Price, move: Price, chance_back: float = 0.0) -> float | None:
    """What moving costs as a share of what staying costs: below 1 it is cheaper. None where a price is not known.

    num_input: tokens of the whole call, about; what goes beyond the seat's is new.
    """
    total = max(num_input, seat.num_tokens + 1)
    staying = stay(Usage(input_tokens=total, cache_read_tokens=seat.num_tokens))
    moving = move(Usage(input_tokens=total))
    if staying is None or moving is None:
        return None
    if staying == 0:
        return float("inf") if moving else 1.0
    return moving / staying + chance_back

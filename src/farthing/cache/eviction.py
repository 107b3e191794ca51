"""Which warm page goes first: the one used longest ago (`lru`), or the one least likely to be used again (`odds`).

`odds` supposes that a page which will be used again is so after a time that is distributed exponentially, and that the
chance of it depends on how often the page has been used. Both are learned from what happens:

    chance[n]   of the pages used n times (n = 1, 2, 3, 4 or more), the share that was used once more
    mean        time between two uses
    odds        of a page that was not used for a time t: chance / (1 - chance) * exp(-t / mean)

The logarithm of the odds falls along the same slope for all pages, so their order does not change while they wait, and
a heap will do: first goes the page whose last use + mean * log(chance / (1 - chance)) is earliest. That is LRU with a
credit for each class; pages used once have none, so while nothing is used twice it is LRU itself.

Evicted pages are remembered for a while, by a hash and without their keys and values. Otherwise a page that always
comes back too late would be taken for a new one for ever.
"""

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from farthing.cache.prefix import Node

__all__ = ["Eviction", "Lru", "Odds", "Policy", "make_policy"]

Eviction = Literal["lru", "odds"]

MOST_USES = 4  # pages used as often, or oftener, are one class
REMEMBERED = 8  # evicted pages, for each page there is
LEARNING = 8  # uses for each page there is, after which all that was learned counts half
DOUBT = 1 / 8  # uses for each page there is, that each chance is supposed to have come out even
LEAST_CHANCE = 0.02  # the greatest is 1 - this


class Policy(Protocol):
    """`clock` may have any unit, as long as it goes on with the use of pages."""

    def used(self, node: "Node", clock: int) -> None:
        """A sequence uses this page, found or computed."""

    def evicted(self, node: "Node") -> None: ...

    def credit(self, node: "Node") -> float:
        """How much later than it was this page's last use counts."""


class Lru:
    def used(self, node: "Node", clock: int) -> None:
        pass

    def evicted(self, node: "Node") -> None:
        pass

    def credit(self, node: "Node") -> float:  # noqa: ARG002
        return 0.0


class Odds:
    """See the top of this file."""

    def __init__(self, num_pages: int) -> None:
        self._num_remembered = REMEMBERED * num_pages
        self._learning = LEARNING * num_pages
        self._doubt = DOUBT * num_pages
        self._evicted: OrderedDict[int, tuple[int, int]] = OrderedDict()  # trail -> (num_uses, used_at), oldest first
        self._num_used = [0.0] * MOST_USES  # pages that came to n + 1 uses,
        self._num_used_again = [0.0] * MOST_USES  # and to one more
        self._sum_of_gaps, self._num_gaps = float(num_pages), 1.0

    def used(self, node: "Node", clock: int) -> None:
        if not node.num_uses:
            node.num_uses, node.used_at = self._evicted.pop(node.trail, (0, 0))
        if node.num_uses:
            self._num_used_again[_class(node)] += 1
            self._sum_of_gaps += clock - node.used_at
            self._num_gaps += 1
        node.num_uses += 1
        node.used_at = clock
        self._num_used[_class(node)] += 1
        if sum(self._num_used) > self._learning:
            self._forget_half()

    def evicted(self, node: "Node") -> None:
        self._evicted[node.trail] = (node.num_uses, node.used_at)
        if len(self._evicted) > self._num_remembered:
            self._evicted.popitem(last=False)

    def credit(self, node: "Node") -> float:
        if node.num_uses <= 1:
            return 0.0
        return self._sum_of_gaps / self._num_gaps * (self._log_odds(_class(node)) - self._log_odds(0))

    def _log_odds(self, n: int) -> float:
        chance = (self._num_used_again[n] + self._doubt / 2) / (self._num_used[n] + self._doubt)
        chance = min(max(chance, LEAST_CHANCE), 1 - LEAST_CHANCE)
        return math.log(chance / (1 - chance))

    def _forget_half(self) -> None:
        self._num_used = [n / 2 for n in self._num_used]
        self._num_used_again = [n / 2 for n in self._num_used_again]
        self._sum_of_gaps /= 2
        self._num_gaps /= 2


def _class(node: "Node") -> int:
    return min(node.num_uses, MOST_USES) - 1


def make_policy(eviction: Eviction, num_pages: int) -> Policy:
    return Lru() if eviction == "lru" else Odds(num_pages)

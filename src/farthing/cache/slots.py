"""Records of the cold tier, and the order in which their places are used again."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Page", "Record", "Slots", "Store"]

Page = npt.NDArray[np.uint8]  # [page_bytes], contiguous


class Record(NamedTuple):
    """Which page it is. The digest stands for all tokens up to its end; the key is compared as well at every hit."""

    digest: bytes  # 32 bytes, of parent and key
    parent: bytes  # 32 bytes, the digest of the page before, or of the root
    key: bytes  # the page's exact tokens, as the prefix tree has them


class Store(Protocol):
    """Where the pages lie. Methods raise OSError where the medium fails."""

    @property
    def num_slots(self) -> int: ...  # pages that the budget holds
    @property
    def num_bytes(self) -> int: ...  # taken of the budget now
    @property
    def num_damaged(self) -> int: ...  # records and files found damaged, and dropped
    def __len__(self) -> int: ...
    def __contains__(self, digest: bytes) -> bool: ...
    def touch(self, digest: bytes) -> None:
        """It was used: others go first. Nothing where it is not there."""

    def put(self, record: Record, page: Page) -> bool:
        """Keep a new page, in place of the one used longest ago where the budget is full. False: it has no place."""

    def will_get(self, digests: Iterable[bytes]) -> None:
        """These are asked for next, in this order."""

    def get(self, record: Record, page: Page) -> bool:
        """Copy the page's bytes into `page`. False, and `page` may hold anything, where it is not there or damaged."""

    def close(self) -> None: ...


class Slots:
    """digest -> slot. Slots are numbers that a store gives a meaning; `add` brings them."""

    def __init__(self) -> None:
        self._slots: OrderedDict[bytes, int] = OrderedDict()  # used longest ago first
        self._free: list[int] = []

    @property
    def num_free(self) -> int:
        return len(self._free)

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Used longest ago first."""
        return iter(self._slots.items())

    def add(self, slots: Iterable[int]) -> None:
        """More free slots; the first of them is taken first."""
        self._free[:0] = reversed(list(slots))

    def find(self, digest: bytes) -> int | None:
        return self._slots.get(digest)

    def touch(self, digest: bytes) -> None:
        if digest in self._slots:
            self._slots.move_to_end(digest)

    def take(self, digest: bytes) -> int | None:
        """A slot for a new digest: a free one, else that of the digest used longest ago; None where there are none."""
        assert digest not in self._slots
        if self._free:
            slot = self._free.pop()
        elif self._slots:
            _, slot = self._slots.popitem(last=False)
        else:
            return None
        self._slots[digest] = slot
        return slot

    def restore(self, digest: bytes, slot: int) -> None:
        """A digest that lies in this slot already, used after those restored before."""
        self._slots[digest] = slot

    def drop(self, digest: bytes) -> None:
        """Its slot is free again."""
        self._free.append(self._slots.pop(digest))

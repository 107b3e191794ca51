"""The cold tier in memory: pages in one array, which costs memory only where it is written."""

from collections.abc import Iterable

import numpy as np

from farthing.cache.slots import Page, Record, Slots

__all__ = ["MemoryStore"]


class MemoryStore:
    """As many pages of page_bytes as num_bytes holds, with record_bytes for what belongs to each."""

    num_damaged = 0

    def __init__(self, num_bytes: int, page_bytes: int, record_bytes: int) -> None:
        self._slot_bytes = page_bytes + record_bytes
        self.num_slots = num_bytes // self._slot_bytes
        self._pages = np.zeros((self.num_slots, page_bytes), np.uint8)
        self._records: dict[bytes, Record] = {}
        self._slots = Slots()
        self._slots.add(range(self.num_slots))

    @property
    def num_bytes(self) -> int:
        return len(self) * self._slot_bytes

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def touch(self, digest: bytes) -> None:
        self._slots.touch(digest)

    def put(self, record: Record, page: Page) -> bool:
        if not self._slots.num_free and len(self):
            oldest, _ = next(iter(self._slots))
            del self._records[oldest]
        slot = self._slots.take(record.digest)
        if slot is None:
            return False
        self._pages[slot] = page
        self._records[record.digest] = record
        return True

    def will_get(self, digests: Iterable[bytes]) -> None:
        """Nothing to prepare."""

    def get(self, record: Record, page: Page) -> bool:
        slot = self._slots.find(record.digest)
        if slot is None or self._records[record.digest] != record:
            return False
        page[:] = self._pages[slot]
        return True

    def close(self) -> None:
        self._slots, self._records = Slots(), {}
        self._pages = self._pages[:0]

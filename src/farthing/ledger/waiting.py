"""Entries that could not be written yet: on the disk (spool) or in memory, bounded either way."""

import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from farthing.ledger.config import LedgerConfig
from farthing.ledger.records import Entry
from farthing.ledger.spool import Spool

__all__ = ["Waiting"]


class Waiting:
    """`keep` may be called by any thread, `take` by the writer's alone."""

    def __init__(self, config: LedgerConfig, instance_id: str) -> None:
        self._folder, self._is_durable = Path(config.spool_folder), config.when_away == "spool"
        self._max_entries = config.max_spooled_rows
        self._path = self._folder / f"{instance_id}.jsonl"
        self._spools = list(Spool.orphans(self._folder))
        self._own: Spool | None = None
        self._memory: deque[Entry] = deque()
        self._lock = threading.Lock()
        self.num_lost = 0  # entries for which there was no place; their callers were told

    @property
    def num_entries(self) -> int:
        return len(self._memory) + sum(spool.num_waiting for spool in self._spools)

    @property
    def num_spooled(self) -> int:
        return sum(spool.num_waiting for spool in self._spools)

    @property
    def is_full(self) -> bool:
        return self.num_entries >= self._max_entries

    def adopt(self) -> None:
        """Take over the files of processes that are gone."""
        found = list(Spool.orphans(self._folder))
        if found:
            with self._lock:
                self._spools = [*self._spools, *found]

    def keep(self, entries: Sequence[Entry]) -> bool:
        """Whether they are on the disk now, and so count as written."""
        with self._lock:
            if not entries:
                return False
            if self.num_entries + len(entries) > self._max_entries:
                self.num_lost += len(entries)
                return False
            if not self._is_durable:
                self._memory.extend(entries)
                return False
            try:
                self._spool().put(entries)
            except OSError as error:
                warnings.warn(f"{self._path}: {error.strerror}; rows are kept in memory", stacklevel=2)
                self._memory.extend(entries)
                return False
            return True

    def take(self, num_entries: int) -> tuple[list[Entry], Callable[[], None]]:
        """The next ones, and what to call when they are written."""
        with self._lock:
            first = list(islice(self._memory, num_entries))
        if first:

            def written() -> None:
                for _ in first:
                    self._memory.popleft()

            return first, written
        spool = next(spool for spool in self._spools if spool.num_waiting)
        entries, end = spool.take(num_entries)
        if not entries:  # somebody cut the file: what was there is gone
            self.num_lost += spool.num_waiting
            spool.drop(spool.num_waiting, end)
        return entries, lambda: spool.drop(len(entries), end)

    def close(self) -> None:
        """What is still in memory goes to the disk: whoever opens this ledger next finds it."""
        with self._lock:
            if self._memory:
                self._spool().put(list(self._memory))
                self._memory.clear()
            for spool in self._spools:
                spool.close()

    def _spool(self) -> Spool:
        if self._own is None:
            self._own = Spool(self._path)
            self._spools.append(self._own)
        return self._own

"""The books, as a server holds them: who may ask, what they may use, and one committed row for every attempt."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from farthing.economics.charge import Pricer
from farthing.ledger.config import LedgerConfig
from farthing.ledger.database import Database
from farthing.ledger.errors import LedgerAway
from farthing.ledger.ids import new_id, now_us
from farthing.ledger.key import Key, check_key, find_key, hash_secret
from farthing.ledger.metered import Metered, through_cancellation
from farthing.ledger.opening import open_database
from farthing.ledger.records import Entry, Settlement
from farthing.ledger.row import Row
from farthing.ledger.waiting import Waiting
from farthing.ledger.writer import Writer
from farthing.upstreams.call import Upstream

__all__ = ["Books", "BooksStats"]

MAX_CACHED_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class BooksStats:
    num_queued: int  # jobs that wait for the writer
    num_committed_rows: int
    num_refused: int  # calls that were not made since the ledger was away
    num_spooled: int  # rows that wait on the disk for the database
    num_waiting: int  # rows that wait for the database, on the disk and in memory
    num_lost: int  # rows for which there was no place; their callers got an error
    is_away: bool


class Books:
    """Belongs to the event loop that opened it. Close it: `aclose` writes what waits."""

    def __init__(self, config: LedgerConfig, pricer: Pricer, database: Database) -> None:
        self.pricer = pricer
        self._config = config
        self._instance_id = new_id()
        self._waiting = Waiting(config, self._instance_id)
        self._writer = Writer(config, database, self._waiting)
        self._keys: OrderedDict[str, Key] = OrderedDict()
        self._num_refused = 0

    @classmethod
    async def open(cls, config: LedgerConfig, pricer: Pricer) -> "Books":
        """Raises LedgerError where the ledger cannot be opened or is newer than this program."""
        database = await asyncio.to_thread(open_database, config)
        return cls(config, pricer, database)

    async def authenticate(self, secret: str) -> Key:
        """Raises InvalidKey, and LedgerAway for a key that nobody has seen while the database is away."""
        hashed = hash_secret(secret)
        key = self._keys.get(hashed)
        if key is None:
            key = await self._ask(lambda database: find_key(database, hashed))
            if key is not None:
                self._keys[hashed] = key
                if len(self._keys) > MAX_CACHED_KEYS:
                    self._keys.popitem(last=False)
        return check_key(key, now_us())

    def metered(self, upstream: Upstream, *, provider: str = "", is_local: bool = False) -> Metered:
        """One row per attempt. provider and is_local: how reservations are priced before the leaf has said a word."""
        return Metered(self, upstream, provider, is_local=is_local)

    async def append(self, row: Row) -> None:
        """Returns when the row is committed (or spooled). Raises LedgerAway where it is not."""
        await through_cancellation(self.submit_row(row, None))

    def submit_row(self, row: Row, settlement: Settlement | None) -> "asyncio.Future[Any]":
        return self._writer.submit_entry(Entry(row, settlement))

    def check_available(self) -> None:
        """Raises LedgerAway before a call is made whose row could not be kept."""
        if not self._writer.is_away:
            return
        if self._config.when_away == "refuse" or self._waiting.is_full:
            self._num_refused += 1
            raise LedgerAway(self._writer.why_away)

    def stats(self) -> BooksStats:
        return BooksStats(
            num_queued=self._writer.num_queued,
            num_committed_rows=self._writer.num_committed_rows,
            num_refused=self._num_refused,
            num_spooled=self._waiting.num_spooled,
            num_waiting=self._waiting.num_entries,
            num_lost=self._waiting.num_lost,
            is_away=self._writer.is_away,
        )

    async def aclose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        self._waiting.close()

    async def _ask(self, run: Any) -> Any:
        return await asyncio.wait_for(self._writer.submit(run), self._config.stall_timeout_s)

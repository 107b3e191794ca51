"""What has to be done now and then, in a thread of its own: heartbeat, news of keys and budgets, the dead, WAL."""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from farthing.ledger.budget import BudgetIndex
from farthing.ledger.config import LedgerConfig
from farthing.ledger.database import Database, connect
from farthing.ledger.directory import directory_version, load_index
from farthing.ledger.errors import LedgerAway
from farthing.ledger.instance import Instance, beat, recover
from farthing.ledger.waiting import Waiting
from farthing.ledger.writer import Writer

__all__ = ["Keeper"]

NEWS_EVERY_S = 1.0  # so long may a revoked key still be taken
BEAT_EVERY_S = 5.0
RECOVER_EVERY_S = 10.0


class Keeper:
    """on_news(index) is called in the writer's thread whenever keys or budgets have changed."""

    def __init__(
        self,
        config: LedgerConfig,
        writer: Writer,
        waiting: Waiting,
        instance: Instance,
        index: BudgetIndex,
        on_news: Callable[[BudgetIndex], None],
    ) -> None:
        self._config, self._writer, self._waiting = config, writer, waiting
        self._instance, self._index, self._on_news = instance, index, on_news
        self._beat_at = self._recover_at = 0.0
        self._is_asking = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="farthing-ledger-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _work(self) -> None:
        tidier: Database | None = None
        while not self._stop.wait(NEWS_EVERY_S):
            if time.monotonic() >= self._recover_at:
                self._waiting.adopt()  # before recover: what the dead wrote down is better than what we can guess
            if not self._is_asking and not self._writer.is_away:
                self._is_asking = True
                with contextlib.suppress(LedgerAway):
                    self._writer.call(self._ask, self._told)
            if self._config.sqlite_path is not None:
                tidier = self._tidy(tidier)
        if tidier is not None:
            tidier.close()

    def _tidy(self, database: Database | None) -> Database | None:
        """On a connection of its own, so that no commit waits. What fails here shows in the writer soon enough."""
        try:
            database = database or connect(self._config)
            database.tidy()
            return database
        except Exception:
            if database is not None:
                with contextlib.suppress(Exception):
                    database.close()
            return None

    def _ask(self, database: Database) -> BudgetIndex | None:
        now = time.monotonic()
        if now >= self._beat_at:
            beat(database, self._instance)
            self._beat_at = now + BEAT_EVERY_S
        if now >= self._recover_at and not self._waiting.num_entries:
            recover(database, self._instance)
            self._recover_at = now + RECOVER_EVERY_S
        return load_index(database) if directory_version(database) != self._index.version else None

    def _told(self, index: Any, error: Exception | None) -> None:
        self._is_asking = False
        if error is not None:
            self._beat_at = self._recover_at = 0.0  # it may not have been written
        elif index is not None:
            self._index = index
            self._on_news(index)

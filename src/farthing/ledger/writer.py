"""One thread, one connection: whatever waits is written in one transaction, and who waits is told after its COMMIT.

    event loop, engine thread         writer thread
    submit(job) ---- queue ---------> BEGIN  job job job …  COMMIT ----> futures resolved, callbacks called

While the database is away jobs fail at once with LedgerAway. An entry (a row that must not be lost) is kept: on the
disk where the configuration says spool, and then counts as written; else in memory, and its job fails, but it is
written when the database is back.
"""

import asyncio
import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from farthing.ledger.config import LedgerConfig
from farthing.ledger.database import Database, connect
from farthing.ledger.entries import write_entry
from farthing.ledger.errors import LedgerAway
from farthing.ledger.records import Entry
from farthing.ledger.waiting import Waiting

__all__ = ["Writer"]

Run = Callable[[Database], Any]
Callback = Callable[[Any, Exception | None], None]
MAX_GROUP = 128  # PostgreSQL walks through every version that a transaction made of a counter
MAX_QUEUED = 20_000  # jobs; a call has a few at a time, so this is far above what a server has open
BACK_OFF_S = (0.1, 5.0)  # before the first try to reconnect, and at most


@dataclass(slots=True)
class _Job:
    run: Run
    future: "asyncio.Future[Any] | None" = None
    callback: Callback | None = None  # in the writer's thread; must be quick
    entry: Entry | None = None


class Writer:
    def __init__(self, config: LedgerConfig, database: Database, waiting: Waiting) -> None:
        self._config, self._waiting = config, waiting
        self._database: Database | None = database
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._back_off_s, self._retry_at = BACK_OFF_S[0], 0.0
        self._why = ""
        self._is_closing = False
        self.num_committed_rows = 0
        self._thread = threading.Thread(target=self._work, name="farthing-ledger", daemon=True)
        self._thread.start()

    @property
    def is_away(self) -> bool:
        """Also where a transaction hangs, so that nobody waits for it longer."""
        since = self._busy_since
        return self._database is None or (since is not None and time.monotonic() - since > self._config.stall_timeout_s)

    @property
    def why_away(self) -> str:
        return self._why or f"a commit takes longer than {self._config.stall_timeout_s:g} s"

    @property
    def num_queued(self) -> int:
        return self._queue.qsize()

    def submit(self, run: Run, callback: Callback | None = None) -> "asyncio.Future[Any]":
        """A future of the running loop with what `run` returns, resolved after the COMMIT."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Job(run, future, callback))
        return future

    def submit_entry(
        self, entry: Entry, then: Run = lambda _: None, callback: Callback | None = None
    ) -> "asyncio.Future[Any]":
        """From here on the entry is not lost while this process lives, whatever becomes of the future. `then` runs in
        the same transaction; its result is None where the entry waits for the database."""

        def run(database: Database) -> Any:
            write_entry(database, entry)
            return then(database)

        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._put(_Job(run, future, callback, entry))
        return future

    def call(self, run: Run, callback: Callback) -> None:
        """As submit, for other threads."""
        self._put(_Job(run, callback=callback))

    def _put(self, job: _Job) -> None:
        if self._is_closing:
            raise LedgerAway("the ledger is closed")
        if job.entry is None and self._queue.qsize() >= MAX_QUEUED:
            raise LedgerAway(f"{MAX_QUEUED:,} writes are waiting")
        self._queue.put(job)

    def close(self) -> None:
        """Write what waits and end. Blocks."""
        self._is_closing = True
        self._queue.put(None)
        self._thread.join(self._config.stall_timeout_s + self._config.lock_timeout_s)

    # The rest runs in the writer's thread.

    def _work(self) -> None:
        is_open = True
        while is_open:
            jobs, is_open = self._take()
            if self._database is None and time.monotonic() >= self._retry_at:
                self._reconnect()
            if jobs:
                self._run(jobs)
            if self._database is not None and self._waiting.num_entries:
                self._write_waiting()
        if self._database is None and self._waiting.num_entries:
            self._reconnect()  # a last try; what still waits then is left on the disk
        while self._database is not None and self._waiting.num_entries:
            self._write_waiting()
        if self._database is not None:
            self._database.close()

    def _take(self) -> tuple[list[_Job], bool]:
        """Everything that waits, at least one job; nothing where there is other work to do."""
        if self._database is None:
            timeout: float | None = max(0.0, self._retry_at - time.monotonic())
        else:
            timeout = 0.0 if self._waiting.num_entries else None
        jobs: list[_Job] = []
        try:
            job = self._queue.get(block=timeout != 0.0, timeout=timeout)
            while job is not None:
                jobs.append(job)
                if len(jobs) == MAX_GROUP:
                    return jobs, True
                job = self._queue.get_nowait()
        except queue.Empty:
            return jobs, True
        return jobs, False

    def _run(self, jobs: Sequence[_Job]) -> None:
        database = self._database
        if database is None:
            self._refuse(jobs)
            return
        self._busy_since = time.monotonic()
        try:
            database.begin()
            results = [job.run(database) for job in jobs]
            database.commit()
        except Exception as error:
            if database.is_away(error) or not _rolled_back(database):
                self._lose(error)
                self._refuse(jobs)
                return
            if len(jobs) == 1:
                _tell([(jobs[0], None, error)])
                return
            for job in jobs:  # one is at fault: the others shall not suffer
                self._run([job])
            return
        finally:
            self._busy_since = None
        self.num_committed_rows += sum(1 for job in jobs if job.entry is not None and job.entry.row is not None)
        _tell([(job, result, None) for job, result in zip(jobs, results, strict=True)])

    def _refuse(self, jobs: Sequence[_Job]) -> None:
        error = LedgerAway(self.why_away)
        kept = self._waiting.keep([job.entry for job in jobs if job.entry is not None])
        _tell([(job, None, None if kept and job.entry is not None else error) for job in jobs])

    def _lose(self, error: Exception) -> None:
        self._why = " ".join(str(error).split())[:200] or type(error).__name__
        database, self._database = self._database, None
        self._retry_at = time.monotonic() + self._back_off_s
        self._back_off_s = min(BACK_OFF_S[1], self._back_off_s * 2)
        if database is not None:
            with contextlib.suppress(Exception):
                database.close()

    def _reconnect(self) -> None:
        database = None
        self._busy_since = time.monotonic()
        try:
            database = connect(self._config)
            database.begin()  # a disk that is full, or a lock that is held, shows only in writing
            database.execute("UPDATE directory SET version = version")
            database.commit()
        except Exception as error:
            self._lose(error)
            if database is not None:
                with contextlib.suppress(Exception):
                    database.close()
            return
        finally:
            self._busy_since = None
        self._database, self._why, self._back_off_s = database, "", BACK_OFF_S[0]

    def _write_waiting(self) -> None:
        entries, written = self._waiting.take(MAX_GROUP)
        if self._write_entries(entries):
            written()

    def _write_entries(self, entries: Sequence[Entry]) -> bool:
        """False where the database went away, and they must wait on."""
        database = self._database
        if database is None:
            return False
        self._busy_since = time.monotonic()
        try:
            database.begin()
            for entry in entries:
                write_entry(database, entry)
            database.commit()
        except Exception as error:
            if database.is_away(error) or not _rolled_back(database):
                self._lose(error)
                return False
            if len(entries) > 1:
                return all(self._write_entries([entry]) for entry in entries)
            # No repetition would help, and it must not keep the others from being written.
            name = entries[0].row.id if entries[0].row is not None else "a settlement"
            warnings.warn(f"the ledger does not take {name}: {error}", stacklevel=2)
            self._waiting.num_lost += 1
            return True
        finally:
            self._busy_since = None
        self.num_committed_rows += len(entries)
        return True


def _rolled_back(database: Database) -> bool:
    try:
        database.rollback()
    except Exception:
        return False
    return True


def _tell(outcomes: Sequence[tuple[_Job, Any, Exception | None]]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, Exception | None]]] = {}
    for job, result, error in outcomes:
        if job.callback is not None:
            job.callback(result, error)
        if job.future is not None:
            by_loop.setdefault(job.future.get_loop(), []).append((job.future, result, error))
    for loop, told in by_loop.items():
        with contextlib.suppress(RuntimeError):  # a loop that was closed in the meantime waits for nothing
            loop.call_soon_threadsafe(_resolve, told)


def _resolve(told: Sequence[tuple["asyncio.Future[Any]", Any, Exception | None]]) -> None:
    for future, result, error in told:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

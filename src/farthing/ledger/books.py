"""The books, as a server holds them: who may ask, what they may use, and one committed row for every attempt."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from farthing.economics.charge import Pricer
from farthing.economics.usage import Usage
from farthing.errors import FarthingError
from farthing.ledger.attempt import Attempt, hosted_charge
from farthing.ledger.awaiting import wait_through
from farthing.ledger.budget import Budget, BudgetIndex
from farthing.ledger.config import LedgerConfig
from farthing.ledger.database import Database
from farthing.ledger.directory import directory_version, load_index
from farthing.ledger.errors import LedgerAway
from farthing.ledger.feedback import Feedback, insert_feedback
from farthing.ledger.holding import make_ask, refusal_error
from farthing.ledger.ids import new_id, now_us
from farthing.ledger.instance import Instance, beat, leave, recover
from farthing.ledger.keeper import Keeper
from farthing.ledger.key import Key, check_key, find_key, hash_secret
from farthing.ledger.local_dollars import LocalDollars
from farthing.ledger.metered import Metered
from farthing.ledger.opening import open_database
from farthing.ledger.records import Entry, Settlement
from farthing.ledger.reservation import Ask, Hold, Refusal, count_request, reserve
from farthing.ledger.row import Row
from farthing.ledger.traffic import Traffic, insert_traffic
from farthing.ledger.waiting import Waiting
from farthing.ledger.writer import Writer
from farthing.upstreams.call import Call, Tally, Upstream
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.estimate import num_choices

__all__ = ["Books", "BooksStats"]

MAX_CACHED_KEYS = 10_000
AWAY_TIMEOUT_S = 0.2


@dataclass(frozen=True, slots=True)
class BooksStats:
    num_queued: int  # jobs that wait for the writer
    num_committed_rows: int
    num_refused: int  # calls that were not made since the ledger was away
    num_over_budget: int  # calls that were not made since a budget or limit had no room
    num_spooled: int  # rows that wait on the disk for the database
    num_waiting: int  # rows that wait for the database, on the disk and in memory
    num_lost: int  # rows for which there was no place; their callers got an error
    is_away: bool


class Books:
    """Belongs to the event loop that opened it. Close it: `aclose` writes what waits."""

    def __init__(self, config: LedgerConfig, pricer: Pricer, database: Database, instance_id: str) -> None:
        self.pricer = pricer
        self._config = config
        self._instance = Instance.of_this_process(instance_id)
        self._waiting = Waiting(config, instance_id)
        database.begin()
        beat(database, self._instance)
        if not self._waiting.num_entries:
            recover(database, self._instance)
        self._index = load_index(database)
        database.commit()
        self._writer = Writer(config, database, self._waiting)
        self._keeper = Keeper(config, self._writer, self._waiting, self._instance, self._index, self._news)
        self._keys: OrderedDict[str, tuple[Key, int]] = OrderedDict()  # by hash, with the directory's version
        self._local = LocalDollars(self._writer, pricer, instance_id)
        self._num_refused = self._num_over_budget = self._num_kept = 0

    @classmethod
    async def open(cls, config: LedgerConfig, pricer: Pricer) -> "Books":
        """Raises LedgerError where the ledger cannot be opened or is newer than this program."""

        def opened() -> "Books":
            database = open_database(config)
            try:
                return cls(config, pricer, database, new_id())
            except BaseException:
                database.close()
                raise

        return await asyncio.to_thread(opened)

    async def authenticate(self, secret: str) -> Key:
        """Raises InvalidKey, and LedgerAway for a key that is not in the cache while the database is away."""
        hashed = hash_secret(secret)
        key, version = self._keys.get(hashed, (None, -1))
        if key is None or version != self._index.version:
            found = await self._ask(lambda database: (find_key(database, hashed), directory_version(database)))
            key = found[0]
            if key is not None:
                self._keys[hashed] = found
                if len(self._keys) > MAX_CACHED_KEYS:
                    self._keys.popitem(last=False)
        return check_key(key, now_us())

    async def admit(self, key: Key | None, *, project: str | None = None, tags: Sequence[str] = ()) -> None:
        """Count one request of a client. Raises UpstreamError (429) where a limit in requests is used up."""
        key_id = None if key is None else key.id
        budgets = [budget for budget in self._index.of(key_id, project, tags) if budget.unit == "requests"]
        if not budgets:
            return
        instance_id = self._instance.id
        refusal = await self._ask(lambda database: count_request(database, budgets, instance_id))
        if refusal is not None:
            self._num_over_budget += 1
            raise refusal_error(refusal, "")

    async def feedback(self, request_id: str, key: Key | None, feedback: Feedback) -> str:
        """The model that it is about. Raises UpstreamError: 404 for a request that this key did not make, 409 where
        it has more than enough of it, 503 while the ledger is away."""
        key_id = None if key is None else key.id
        found = await self._ask(lambda database: insert_feedback(database, request_id, key_id, feedback))
        if isinstance(found, UpstreamError):
            raise found
        return str(found)

    def keep_traffic(self, traffic: Traffic, max_rows: int) -> None:
        """Sooner or later, or not at all: nothing waits for it. Only where the configuration says so."""
        number, at_us = self._num_kept, now_us()
        self._num_kept += 1
        with suppress(LedgerAway):
            future = self._writer.submit(lambda database: insert_traffic(database, traffic, at_us, max_rows, number))
            future.add_done_callback(lambda late: late.cancelled() or late.exception())

    def metered(self, upstream: Upstream, *, provider: str = "", is_local: bool = False) -> Metered:
        """One row per attempt. provider and is_local: how reservations are priced before the leaf has said a word."""
        return Metered(self, upstream, provider, is_local=is_local)

    def check_available(self) -> None:
        """Before an answer is given that no budget pays for. Raises LedgerAway where its row could not be kept now."""
        self._check_available(())

    async def append(self, row: Row) -> None:
        """Returns when the row is committed (or spooled). Raises LedgerAway where it is not."""
        entry = Entry(row)
        await self.committed(self.submit(entry), entry)

    def stats(self) -> BooksStats:
        return BooksStats(
            num_queued=self._writer.num_queued,
            num_committed_rows=self._writer.num_committed_rows,
            num_refused=self._num_refused,
            num_over_budget=self._num_over_budget,
            num_spooled=self._waiting.num_spooled,
            num_waiting=self._waiting.num_entries,
            num_lost=self._waiting.num_lost,
            is_away=self._writer.is_away,
        )

    async def aclose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._keeper.close()
        if not self._writer.is_away:
            self._writer.call(lambda database: leave(database, self._instance), lambda _, __: None)
        self._writer.close()
        self._waiting.close()

    # For Metered.

    async def hold(
        self, attempt: Attempt, call: Call, tally: Tally, max_usage: Callable[[Call], Usage]
    ) -> tuple[Hold | None, Call]:
        """Reserve the upper bound; the call as it is to be made. Raises UpstreamError where it is not to be made."""
        found = self._index.of(call.key_id, call.project, call.tags)
        budgets = [budget for budget in found if budget.unit != "requests"]
        self._check_available(budgets)
        if not budgets:
            return None if tally.is_local else await self._trace(attempt, call, tally), call
        # A local prompt is counted by its tokenizer, its model perhaps loaded for that: not on the event loop.
        usage = await asyncio.to_thread(max_usage, call) if tally.is_local else max_usage(call)
        tranche = self._local.tranche(call.model, usage) if tally.is_local else 0
        count = num_choices(call.body)
        ask = make_ask(attempt, self._instance.id, budgets, call, tally, usage, self.pricer, tranche, count)
        hold = await self._reserve(ask)
        if isinstance(hold, Refusal):
            self._num_over_budget += 1
            raise refusal_error(hold, tally.model)
        # Hosted: also a call that fits goes out with its bound, so that it can be relied on.
        is_limited = hold.is_lowered or hold.is_bound
        asked = replace(call, max_output_tokens=hold.max_output_tokens) if is_limited else call
        if (allowance := self._local.allowance(hold, tranche)) is not None:
            asked = replace(asked, allowance=allowance)
        return hold, asked

    def submit(self, entry: Entry, hold: Hold | None = None) -> "asyncio.Future[Any]":
        """hold: what the entry settles."""
        return self._writer.submit_entry(entry) if hold is None else self._local.submit(entry, hold)

    async def committed(self, future: "asyncio.Future[Any]", entry: Entry) -> None:
        """Returns when the row is written for good. Raises LedgerAway where that is not so within the time allowed."""
        # Where the writer hangs already, for others too, there is no use in waiting for it again.
        timeout_s = AWAY_TIMEOUT_S if self._writer.is_away else self._config.stall_timeout_s
        cancelled = await wait_through(future, timeout_s)
        if not future.done():
            # It hangs. On the disk it is safe; if the writer does its work after all, a repetition is nothing.
            future.add_done_callback(lambda late: late.exception())
            if self._config.when_away != "spool" or not self._waiting.keep([entry]):
                raise cancelled or LedgerAway(self._writer.why_away)
        error = future.exception() if future.done() else None
        if cancelled is not None or error is not None:
            raise cancelled or _known(error)

    def learn(self, tally: Tally) -> None:
        self._local.learn(tally)

    def price(self, model: str, provider: str, usage: Usage, *, is_local: bool) -> int | None:
        """What an input would cost now; None where nobody knows."""
        if not is_local:
            return hosted_charge(self.pricer, model, provider, usage, datetime.now(UTC)).total_pico
        return self._local.price(model, usage)

    def _check_available(self, budgets: Sequence[Budget]) -> None:
        """Before a call is made whose row could not be kept, or whose budgets could not be asked."""
        if self._writer.is_away and (self._config.when_away == "refuse" or self._waiting.is_full or budgets):
            self._num_refused += 1
            raise LedgerAway(self._writer.why_away)

    async def _trace(self, attempt: Attempt, call: Call, tally: Tally) -> Hold | None:
        """A reservation of nothing, so that a hosted call has its row though this process is killed. None where the
        database is away and rows are spooled: then a call goes out without."""
        ask = make_ask(attempt, self._instance.id, (), call, tally, Usage(), self.pricer, 0)
        try:
            hold = None if self._writer.is_away else await self._reserve(ask)
        except LedgerAway:
            if self._config.when_away == "refuse":
                raise
            hold = None
        assert not isinstance(hold, Refusal), "no budget can refuse it"
        return hold

    async def _reserve(self, ask: Ask) -> Hold | Refusal:
        future = self._writer.submit(lambda database: reserve(database, ask), self._local.reserved)
        cancelled = await wait_through(future, self._config.stall_timeout_s)
        if future.done() and future.exception() is None and cancelled is None:
            result: Hold | Refusal = future.result()
            return result
        # It may have been made, or be made yet: what nobody uses must not stay reserved.
        future.add_done_callback(lambda late: late.exception())
        charges = tuple((budget.id, 0) for budget in ask.budgets)
        release = self._writer.submit_entry(
            Entry(None, Settlement(ask.reservation_id, charges, "release")),
            callback=lambda *_: self._local.released(ask.reservation_id),
        )
        release.add_done_callback(lambda late: late.exception())
        raise cancelled or _known(future.exception() if future.done() else LedgerAway(self._writer.why_away))

    async def _ask(self, run: Callable[[Database], Any]) -> Any:
        future = self._writer.submit(run)
        cancelled = await wait_through(future, self._config.stall_timeout_s)
        error = future.exception() if future.done() else LedgerAway(self._writer.why_away)
        if cancelled is not None or error is not None:
            future.add_done_callback(lambda late: late.exception())
            raise cancelled or _known(error)
        return future.result()

    def _news(self, index: BudgetIndex) -> None:
        self._index = index


def _known(error: BaseException | None) -> BaseException:
    """A statement of ours that the database does not take is our own bug, but the client gets an answer."""
    if isinstance(error, FarthingError):
        return error
    return UpstreamError(f"the ledger failed ({type(error).__name__})", status=500, code="ledger_error")

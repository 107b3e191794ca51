"""An upstream that writes one row per attempt, and holds what a call may use against its budgets.

    reserve -> the leaf's pieces, handed on -> whatever ends it: the tally is final -> row COMMITTED -> end

A hosted call reserves also where no budget applies, nothing then, so that it has a row though this process is killed.
The row is committed before the iterator ends, so a client that has read its answer's end finds the row. It is given to
the writer in one piece with what it settles, before anything is awaited, so no second cancellation can lose it. A call
that a budget, or max_usage, refuses was no attempt and has no row.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.ledger.attempt import Attempt, receipt_of
from farthing.ledger.holding import settlement_of
from farthing.ledger.overrun import Overrun
from farthing.ledger.records import Entry
from farthing.ledger.reservation import Hold
from farthing.upstreams.call import Call, Chunk, Tally, Upstream
from farthing.upstreams.errors import UpstreamError

if TYPE_CHECKING:
    from farthing.ledger.books import Books

__all__ = ["Metered"]


class Metered:
    """Wraps a leaf, never something that tries several: one attempt, one row. A leaf that is priced as another model
    than it is asked for says so in `priced_as`, so that it is reserved as it is billed."""

    def __init__(self, books: "Books", upstream: Upstream, provider: str, *, is_local: bool) -> None:
        self.name = upstream.name
        self._books, self._upstream = books, upstream
        self._provider, self._is_local = provider, is_local
        self._priced_as: str | None = getattr(upstream, "priced_as", None)

    def max_usage(self, call: Call) -> Usage:
        return self._upstream.max_usage(call)

    async def models(self) -> list[str]:
        return await self._upstream.models()

    async def aclose(self) -> None:
        await self._upstream.aclose()

    @property
    def is_local(self) -> bool:
        return self._is_local

    def price(self, model: str, usage: Usage) -> int | None:
        """What an attempt with this usage would cost now, in pico-dollars; None where nobody knows yet."""
        return self._books.price(model, self._provider, usage, is_local=self._is_local)

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        """Raises UpstreamError also where a budget is used up (429) and where the ledger is away (503)."""
        attempt = Attempt.begin(call)
        self._reset(call, tally)
        hold, asked = await self._books.hold(attempt, call, tally, self._upstream.max_usage)
        inner: AsyncIterator[Chunk] | None = None
        is_normal = False
        overrun = Overrun(hold) if hold is not None and hold.is_bound and call.is_stream else None
        try:
            inner = self._upstream.stream(asked, tally)
            async for chunk in inner:
                attempt.note(chunk)
                yield chunk
                if overrun is not None and (ends := overrun.ends(chunk, tally)):
                    await _close(inner)  # whatever becomes of the client, the provider stops now
                    attempt.finish_reason, tally.is_cut = "length", True
                    for end in ends:
                        yield end
                    break
            is_normal = True
        except UpstreamError as error:
            attempt.status, attempt.error = "error", error.code
            raise
        except (GeneratorExit, asyncio.CancelledError):
            attempt.status = "aborted"
            raise
        except BaseException:
            attempt.status, attempt.error = "error", "internal_error"
            raise
        finally:
            try:
                if not is_normal:
                    await _close(inner)  # the leaf stops its work and makes the tally final
            finally:
                await self._finish(attempt, call, tally, hold, is_normal=is_normal)

    def _reset(self, call: Call, tally: Tally) -> None:
        """The tally may have been another attempt's. What is known before the leaf says so itself."""
        model = self._priced_as or call.model
        fresh = Tally(upstream=self.name, provider=self._provider, model=model, is_local=self._is_local)
        for name in Tally.__slots__:
            setattr(tally, name, getattr(fresh, name))
        tally.route = _route(call)

    async def _finish(self, attempt: Attempt, call: Call, tally: Tally, hold: Hold | None, *, is_normal: bool) -> None:
        books = self._books
        if hold is not None and hold.is_lowered and attempt.finish_reason == "length":
            tally.is_cut = True
        if tally.is_discarded and attempt.status == "ok":
            attempt.status = "discarded"
        row = attempt.row(call, tally, books.pricer, time.monotonic_ns(), tally.route)
        books.learn(tally)
        entry = Entry(row, None if hold is None else settlement_of(hold, row))
        call.receipts.append(receipt_of(row, tally))
        try:
            await books.committed(books.submit(entry, hold), entry)
        except UpstreamError:
            if is_normal:  # an answer whose row is not written does not end well; another failure goes first
                raise


async def _close(chunks: AsyncIterator[Chunk] | None) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def _route(call: Call) -> str | None:
    """Why this upstream: as whoever chose it says (a fallback whose first member was not even asked), otherwise what
    became of the attempt before."""
    if call.route is not None or not call.receipts:
        return call.route
    last = call.receipts[-1]
    return f"fallback: {last.error or last.status}"

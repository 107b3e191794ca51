"""An upstream that writes one row per attempt, and holds what a call may use against its budgets.

    admit and reserve -> the leaf's pieces, handed on -> whatever ends it: tally is final -> row COMMITTED -> end

The row is committed before the iterator ends, so a client that has read its answer's end finds the row. It is given to
the writer in one piece with what it settles, before anything is awaited, so no second cancellation can lose it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from farthing.economics.usage import Usage
from farthing.ledger.attempt import Attempt, receipt_of
from farthing.ledger.ids import new_id, now_us
from farthing.upstreams.call import Call, Chunk, Tally, Upstream
from farthing.upstreams.errors import UpstreamError

if TYPE_CHECKING:
    from farthing.ledger.books import Books

__all__ = ["Metered"]


class Metered:
    """Wraps a leaf, never something that tries several: one attempt, one row."""

    def __init__(self, books: "Books", upstream: Upstream, provider: str, *, is_local: bool) -> None:
        self.name = upstream.name
        self._books, self._upstream = books, upstream
        self._provider, self._is_local = provider, is_local

    def max_usage(self, call: Call) -> Usage:
        return self._upstream.max_usage(call)

    async def models(self) -> list[str]:
        return await self._upstream.models()

    async def aclose(self) -> None:
        await self._upstream.aclose()

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        """Raises UpstreamError also where a budget is used up (429) and where the ledger is away (503)."""
        books, started_us = self._books, now_us()
        attempt = Attempt(new_id(started_us), len(call.receipts), started_us, time.monotonic_ns())
        books.check_available()
        self._reset(call, tally)
        inner: AsyncIterator[Chunk] | None = None
        failure: BaseException | None = None
        try:
            inner = self._upstream.stream(call, tally)
            async for chunk in inner:
                if attempt.first_token_ns is None and (chunk.text or chunk.tool_calls or chunk.reasoning):
                    attempt.first_token_ns = time.monotonic_ns()
                if chunk.finish_reason is not None:
                    attempt.finish_reason = chunk.finish_reason
                yield chunk
        except UpstreamError as error:
            attempt.status, attempt.error, failure = "error", error.code, error
            raise
        except (GeneratorExit, asyncio.CancelledError) as error:
            attempt.status, failure = "aborted", error
            raise
        except BaseException as error:
            attempt.status, attempt.error, failure = "error", "internal_error", error
            raise
        finally:
            try:
                if isinstance(inner, AsyncGenerator) and failure is not None:
                    await inner.aclose()  # the leaf makes the tally final
            finally:
                await self._finish(attempt, call, tally, is_normal=failure is None)

    def _reset(self, call: Call, tally: Tally) -> None:
        """The tally may have been another attempt's. What is known before the leaf says so itself."""
        fresh = Tally(upstream=self.name, provider=self._provider, model=call.model, is_local=self._is_local)
        for name in Tally.__slots__:
            setattr(tally, name, getattr(fresh, name))

    async def _finish(self, attempt: Attempt, call: Call, tally: Tally, *, is_normal: bool) -> None:
        books = self._books
        row = attempt.row(call, tally, books.pricer, time.monotonic_ns(), route=None)
        committed = books.submit_row(row, None)
        call.receipts.append(receipt_of(row, tally))
        try:
            await through_cancellation(committed)
        except UpstreamError:
            if is_normal:  # an answer whose row is not written does not end well; another failure goes first
                raise


async def through_cancellation(future: "asyncio.Future[Any]") -> Any:
    """The future's result, waited for to its end; a cancellation in between is raised after it."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break  # of the future; raised below
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen
        raise cancelled
    return future.result()

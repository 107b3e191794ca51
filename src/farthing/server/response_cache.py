"""Exact repeats are answered from a store, at cost 0; identical requests that come together share one computation.

    request -- repeats? --no--> upstream
                  |yes
                stored? --yes--> its pieces again             (cost 0, a row with cache "hit")
                  |no
                under way? --yes--> its pieces as they come   (cost 0, a row with cache "hit")
                  |no
                compute, and store what ended well            (Metered's row, as always)

The one that computes pays, also where its client leaves and others read on. Where it fails before its first piece for a
reason of its own (status below 500: its budget, its limits) the next one computes; otherwise all are told the same.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Protocol, cast

from farthing.economics.charge import Pricer
from farthing.ledger.attempt import Attempt, receipt_of
from farthing.ledger.row import Row
from farthing.server.response_flight import Flight
from farthing.server.response_row import given_row
from farthing.server.response_store import (
    ResponseCacheConfig,
    ResponseStore,
    StoreStats,
    request_key,
    stored_answer,
    without_seconds,
)
from farthing.server.wrapping import Wrapping
from farthing.upstreams import Call, Chunk, Tally, Upstream, UpstreamError

__all__ = ["CachedUpstream", "ResponseCache"]

FlightKey = tuple[object, ...]
STORED_ENDS = frozenset(("stop", "length", "tool_calls"))


class Ledger(Protocol):
    """The books, as far as they are needed here (ledger.Books)."""

    pricer: Pricer

    def check_available(self) -> None: ...
    async def append(self, row: Row) -> None: ...


class ResponseCache:
    """One for the server, over all its upstreams: `wrap` each (outermost, around what is metered)."""

    def __init__(self, config: ResponseCacheConfig, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.store = ResponseStore(config)
        self.flights: dict[FlightKey, Flight] = {}

    def wrap(self, upstream: Upstream) -> "CachedUpstream":
        return CachedUpstream(self, upstream)

    def stats(self) -> StoreStats:
        return self.store.stats()

    async def aclose(self) -> None:
        """Stops what is still computed. The upstreams are their owner's to close."""
        for flight in list(self.flights.values()):
            await flight.stop()


class CachedUpstream(Wrapping):
    """An upstream whose repeated answers come from the cache."""

    def __init__(self, cache: ResponseCache, upstream: Upstream) -> None:
        super().__init__(upstream)
        self._cache = cache

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        key = request_key(self.name, call, is_sampled=self._cache.config.sampled)
        pieces = self._upstream.stream(call, tally) if key is None else self._cached(key, call, tally)
        async with _closing(pieces) as closing:
            async for piece in closing:
                yield piece

    async def _cached(self, key: bytes, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        cache, flight_key = self._cache, _flight_key(key, call)
        while True:
            if (answer := cache.store.get(key, call)) is not None:
                pieces = self._given(call, tally, answer.tally, _replay(answer.chunks))
            elif (flight := cache.flights.get(flight_key)) is not None:
                pieces = self._given(call, tally, flight.tally, flight.listen())
            else:
                pieces = self._compute(key, flight_key, call, tally)
            try:
                async with _closing(pieces) as closing:
                    async for piece in closing:
                        yield piece
                return
            except _AnothersFailure:
                continue  # it was the other one's reason; the first to get here computes

    def _compute(self, key: bytes, flight_key: FlightKey, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        cache = self._cache

        def ended(flight: Flight) -> None:
            del cache.flights[flight_key]
            if flight.is_complete and _is_whole(flight):
                cache.store.put(key, stored_answer(flight.pieces, tally, is_stream=call.is_stream))

        flight = cache.flights[flight_key] = Flight(self._upstream, call, tally, ended)
        return flight.listen()

    async def _given(
        self, call: Call, tally: Tally, source: Tally, pieces: AsyncIterator[Chunk]
    ) -> AsyncIterator[Chunk]:
        """The pieces that another request's computation gives or gave; then a row, committed before the end."""
        ledger = self._cache.ledger
        ledger.check_available()
        attempt, is_first, is_normal, is_written = Attempt.begin(call), True, False, True
        try:
            async with _closing(pieces) as closing:
                async for piece in closing:
                    if is_first:
                        is_first = False
                        _take(tally, source)
                    attempt.note(piece)
                    yield piece
            is_normal = True
        except (GeneratorExit, asyncio.CancelledError):
            attempt.status = "aborted"
            raise
        except Exception as error:
            if is_first and isinstance(error, UpstreamError) and error.status < 500:
                is_written = False
                raise _AnothersFailure from None
            attempt.status = "error"
            attempt.error = error.code if isinstance(error, UpstreamError) else "internal_error"
            raise
        finally:
            if is_written:
                _take(tally, source)
                row = given_row(attempt, call, tally, ledger.pricer)
                call.receipts.append(receipt_of(row, tally))
                try:
                    await ledger.append(row)
                except UpstreamError:
                    if is_normal:  # an answer whose row is not written does not end well; another failure goes first
                        raise


class _AnothersFailure(Exception):
    """The computation failed before its first piece, for a reason that concerns only the one that asked for it."""


def _flight_key(key: bytes, call: Call) -> FlightKey:
    """Who may share a computation under way: those with the same budgets, which may cut it short for all of them."""
    return key, call.is_stream, call.max_output_tokens, call.key_id, call.project, call.tags


def _is_whole(flight: Flight) -> bool:
    """Whether the answer is what anybody would get: not cut by a budget, nor by a filter."""
    reasons = {piece.finish_reason for piece in flight.pieces if piece.finish_reason is not None}
    is_limited = flight.call.max_output_tokens is not None and "length" in reasons
    return bool(reasons) and reasons <= STORED_ENDS and not (flight.tally.is_cut or is_limited)


def _take(tally: Tally, source: Tally) -> None:
    fresh = without_seconds(source)
    for name in Tally.__slots__:
        setattr(tally, name, getattr(fresh, name))


async def _replay(chunks: Sequence[Chunk]) -> AsyncIterator[Chunk]:
    for chunk in chunks:
        yield chunk


def _closing(pieces: AsyncIterator[Chunk]) -> "aclosing[AsyncGenerator[Chunk, None]]":
    """Upstreams' streams are generators; leaving one early must stop its work now, not when it is collected."""
    return aclosing(cast("AsyncGenerator[Chunk, None]", pieces))

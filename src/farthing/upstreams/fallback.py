"""Several upstreams as one: the next is tried where one fails before its first chunk.

Each member is a leaf, Metered, and a model's name there: every attempt has its row, which says why it was made.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from farthing.economics.usage import Usage
from farthing.upstreams.breaker import Breaker
from farthing.upstreams.call import Call, Chunk, Tally, Upstream
from farthing.upstreams.errors import UpstreamError

__all__ = ["Fallback", "Member", "attempt", "largest_usage"]


@dataclass(frozen=True, slots=True)
class Member:
    upstream: Upstream
    model: str
    breaker: Breaker


class Fallback:
    """members: (upstream, model there), the preferred first. A member whose breaker is open is passed over, but where
    all are, all are tried: a breaker alone never refuses a call. The last error is the client's."""

    def __init__(
        self, name: str, members: Sequence[tuple[Upstream, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert members
        self.name = name
        self._members = [Member(upstream, model, Breaker(clock)) for upstream, model in members]

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        last: UpstreamError | None = None
        for member in self._candidates():
            is_preferred = member is self._members[0]
            route = call.route if is_preferred else f"fallback: {last.code if last else 'unavailable'}"
            is_begun = False
            chunks = attempt(member, replace(call, model=member.model, route=route), tally)
            try:
                async for chunk in chunks:
                    is_begun = True
                    yield chunk
                return
            except UpstreamError as error:
                if is_begun or not error.is_retryable:
                    raise
                last = error
            finally:
                await chunks.aclose()
        assert last is not None
        raise last

    def _candidates(self) -> Iterator[Member]:
        """Who is to be tried, asked for one by one, since a half-open breaker lets one call through."""
        is_any = False
        for member in self._members:
            if member.breaker.allows():
                is_any = True
                yield member
        if not is_any:
            yield from self._members

    def max_usage(self, call: Call) -> Usage:
        """The most of any member, class by class. Raises UpstreamError where all refuse."""
        return largest_usage(self._members, call)

    async def models(self) -> list[str]:
        return [self.name]

    async def aclose(self) -> None:
        """The members are closed by whoever made them: another fallback may use them."""


def largest_usage(members: Sequence[Member], call: Call) -> Usage:
    """The most of any member, class by class. Raises UpstreamError where all refuse."""
    most: Usage | None = None
    refusal: UpstreamError | None = None
    for member in members:
        try:
            usage = member.upstream.max_usage(replace(call, model=member.model))
        except UpstreamError as error:
            refusal = refusal or error
            continue
        most = usage if most is None else _larger(most, usage)
    if most is None:
        assert refusal is not None
        raise refusal
    return most


async def attempt(member: Member, call: Call, tally: Tally) -> AsyncGenerator[Chunk, None]:
    """One member's answer; its breaker learns from how it goes."""
    _reset(tally)
    chunks = member.upstream.stream(call, tally)
    has_verdict = False
    try:
        async for chunk in chunks:
            if not has_verdict:
                has_verdict = True
                member.breaker.succeeded()
            yield chunk
    except UpstreamError as error:
        if error.is_retryable and error.is_failure and not has_verdict:
            has_verdict = True
            member.breaker.failed()
        raise
    finally:
        if not has_verdict:
            member.breaker.gave_up()
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _larger(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: max(value, getattr(other, name)) for name, value in vars(one).items()})


def _reset(tally: Tally) -> None:
    fresh = Tally()
    for name in Tally.__slots__:
        setattr(tally, name, getattr(fresh, name))

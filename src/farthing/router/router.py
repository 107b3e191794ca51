"""One upstream over several, ordered by cost: the cheapest that will do answers.

    before the call     decider.choose -> a member, or the first one as a draft
    cascade             draft held back -> decider.judge -> given, or discarded and a dearer member asked, whose answer
                        is a draft in its turn where it can be checked
    conversation        stays with a dearer member whose cache has it, unless moving is cheaper (sessions.py)

Each member is metered: every attempt, the discarded ones too, has its row and is paid, and its route says why.
A draft reaches its client only once it is kept, so a streamed answer then comes at once.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from farthing.economics.usage import Usage
from farthing.router.answer_form import fault
from farthing.router.config import RouterConfig
from farthing.router.counts import Counts, RouterStats
from farthing.router.deciding import Choice, Decider, Verdict
from farthing.router.drafting import Draft, draft_call, sample_call, shown
from farthing.router.question import Question, read_question
from farthing.router.reloading import ReloadingDecider, watched_decider
from farthing.router.sessions import Seat, Sessions, moving_ratio
from farthing.upstreams.breaker import Breaker
from farthing.upstreams.call import Call, Chunk, Tally, Upstream
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.estimate import estimate_usage
from farthing.upstreams.fallback import Member, attempt, largest_usage

__all__ = ["RoutedMember", "Router"]

# What another member may do though this one cannot.
ELSEWHERE = ("context_length_exceeded", "unsupported_parameter", "unsupported_endpoint", "form_too_complex")


@dataclass(frozen=True, slots=True)
class RoutedMember:
    """price: what an input costs at this model, in pico-dollars (ledger.Metered.price)."""

    upstream: Upstream
    model: str
    price: Callable[[Usage], int | None]
    is_local: bool = False


@dataclass(slots=True)
class _Run:
    """One call on its way."""

    call: Call
    tally: Tally
    question: Question
    member: int = 0  # that was asked last


@dataclass(frozen=True, slots=True)
class _Held:
    """A draft that was not good enough, and its usage."""

    member: int
    draft: Draft
    tally: Tally


class Router:
    """Raises FarthingError for a file or settings that do not belong to these members."""

    def __init__(
        self,
        name: str,
        members: Sequence[RoutedMember],
        config: RouterConfig,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        assert len(members) > 1
        self.name = name
        self._config = config
        self._members = list(members)
        self._num = len(members)
        self._asked = [Member(member.upstream, member.model, Breaker(clock_s)) for member in members]
        are_local, first = [member.is_local for member in members], members[0].model
        self._decider: Decider = watched_decider(config, are_local, first, clock_s)
        self._sessions = Sessions(config.sticky_s, config.sticky_max, clock_s)
        self._counts = Counts()

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        run = _Run(call, tally, read_question(call, is_named=self._config.sticky))
        choice = self._placed(run, self._choice(run.question))
        pieces = self._cascade(run) if choice.is_cascade else self._direct(run, self._order(choice.member), choice.why)
        async with aclosing(pieces):
            async for chunk in pieces:
                yield chunk
        self._counts.answered(self._members[run.member].model, tally.route or "")
        usage = tally.usage
        self._sessions.put(run.question.stored_as, Seat(run.member, usage.input_tokens + usage.output_tokens))

    def _choice(self, question: Question) -> Choice:
        """A cascade's check reads one answer; several go to who needs no check."""
        choice = self._decider.choose(question)
        if choice.is_cascade and question.num_choices > 1:
            return Choice(1, "router choices: n > 1")
        return choice

    def _placed(self, run: _Run, choice: Choice) -> Choice:
        """The choice, or to stay where the conversation is: only towards a cheaper model, for quality comes first."""
        seat = self._sessions.get(run.question.found_as) if self._config.sticky else None
        if seat is None or seat.member <= choice.member:
            return choice
        here, there = self._members[seat.member], self._members[choice.member]
        chance_back = self._counts.escalated_share if choice.is_cascade else 0.0
        num_input = estimate_usage(run.call, 0).input_tokens
        ratio = moving_ratio(seat, num_input, here.price, there.price, chance_back)
        if ratio is not None and ratio < 1:
            return choice
        return Choice(seat.member, "sticky: no price" if ratio is None else f"sticky: moving costs {ratio:.2f} of it")

    def _order(self, first: int) -> list[int]:
        """A member, and where it cannot answer the dearer ones, then the cheaper ones."""
        return [*range(first, self._num), *reversed(range(first))]

    async def _direct(self, run: _Run, order: Sequence[int], why: str) -> AsyncGenerator[Chunk, None]:
        last: UpstreamError | None = None
        for number in self._candidates(order):
            if last is not None or number != order[0]:
                why = _moved(last)
            is_begun = False
            chunks = self._attempt(run, number, run.call, why)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        is_begun = True
                        yield chunk
                return
            except UpstreamError as error:
                if is_begun or not _is_elsewhere(error):
                    raise
                last = error
        assert last is not None
        raise last

    async def _cascade(self, run: _Run) -> AsyncGenerator[Chunk, None]:
        """One draft after the other, until one is kept or nobody can check who is asked next."""
        number, why = 0, _moved(None)
        is_any_asked = False
        held: _Held | None = None
        while self._decider.checks(number):
            if not self._asked[number].breaker.allows():
                number += 1
                continue
            draft, is_any_asked = Draft(), True
            try:
                verdict = await self._drafted(run, number, draft)
            except UpstreamError as error:
                if _is_elsewhere(error):
                    number, why = number + 1, _moved(error)
                    continue
                if held is None:
                    raise
                pieces = self._after_all(run, held)
                break
            if verdict.is_kept:
                pieces = self._given(run, number, draft)
                break
            self._counts.num_escalated += number == 0
            held = _Held(number, draft, replace(run.tally, headers=dict(run.tally.headers)))
            number, why = verdict.next_member or number + 1, verdict.why
        else:
            pieces = self._escalated(run, range(number, self._num) if is_any_asked else self._order(number), why, held)
        async with aclosing(pieces):
            async for chunk in pieces:
                yield chunk

    async def _drafted(self, run: _Run, number: int, draft: Draft) -> Verdict:
        """Fills the draft. The verdict is told with its last piece, while its row can still say so."""
        member, config, question = self._members[number], self._config, run.question
        samples: list[str] = []
        if number == 0:
            self._counts.num_drafts += 1
            if config.samples and not question.has_tools:
                samples = await self._samples(run)
        verdict = Verdict(True, "cascade kept: no end")
        call = draft_call(run.call, is_local=member.is_local)
        call = replace(call, wants_hidden=number == 0 and self._decider.wants_hidden)
        pieces = self._attempt(run, number, call, "cascade: cut")
        async with aclosing(pieces):
            async for chunk in pieces:
                draft.chunks.append(chunk)
                if chunk.finish_reason is not None:
                    verdict = self._verdict(run, number, draft, samples, chunk.finish_reason)
                    run.tally.route, run.tally.is_discarded = verdict.why, not verdict.is_kept
        return verdict

    def _verdict(self, run: _Run, number: int, draft: Draft, samples: Sequence[str], finish_reason: str) -> Verdict:
        """An answer that a budget ended is kept: a dearer one would not even begin."""
        text, tool_calls = draft.text, draft.tool_calls
        if run.tally.is_cut:
            return Verdict(True, "cascade kept: budget")
        if (wrong := fault(run.call, text, tool_calls, finish_reason)) is not None:
            return Verdict(False, f"cascade escalated: {wrong}")
        if tool_calls:
            return Verdict(True, "cascade kept: its tool calls are well formed")
        return self._decider.judge(run.question, draft, samples, number)

    async def _samples(self, run: _Run) -> list[str]:
        """Short answers of the first member, an attempt of their own before the draft, which then finds the prompt in
        the cache."""
        config, tally, texts = self._config, Tally(), [""] * self._config.samples
        call = sample_call(run.call, config.samples, config.sample_tokens)
        pieces = self._attempt(replace(run, tally=tally), 0, call, "cascade sample")
        async with aclosing(pieces):
            async for chunk in pieces:
                tally.is_discarded = True
                texts[chunk.index] += chunk.text
        return texts

    async def _given(self, run: _Run, number: int, draft: Draft) -> AsyncGenerator[Chunk, None]:
        for chunk in shown(draft.chunks, run.call, is_local=self._members[number].is_local):
            yield chunk

    async def _escalated(
        self, run: _Run, order: Sequence[int], why: str, held: _Held | None
    ) -> AsyncGenerator[Chunk, None]:
        """A dearer member's answer. Where nobody else can answer, the last draft is better than none."""
        is_begun = False
        try:
            async with aclosing(self._direct(run, order, why)) as pieces:
                async for chunk in pieces:
                    is_begun = True
                    yield chunk
            return
        except UpstreamError:
            if is_begun or held is None:
                raise
        async with aclosing(self._after_all(run, held)) as pieces:
            async for chunk in pieces:
                yield chunk

    async def _after_all(self, run: _Run, held: _Held) -> AsyncGenerator[Chunk, None]:
        for name in Tally.__slots__:
            setattr(run.tally, name, getattr(held.tally, name))
        run.member, run.tally.route = held.member, "cascade kept: nobody else could answer"
        async with aclosing(self._given(run, held.member, held.draft)) as pieces:
            async for chunk in pieces:
                yield chunk

    def _attempt(self, run: _Run, number: int, call: Call, why: str) -> AsyncGenerator[Chunk, None]:
        run.member = number
        return attempt(self._asked[number], replace(call, model=self._members[number].model, route=why), run.tally)

    def _candidates(self, order: Sequence[int]) -> Iterator[int]:
        """Asked for one by one: a half-open breaker lets one call through. Where all are open, all are tried."""
        is_any = False
        for number in order:
            if self._asked[number].breaker.allows():
                is_any = True
                yield number
        if not is_any:
            yield from order

    def router_stats(self) -> RouterStats:
        counts = self._counts
        drifted, num_sessions = self._decider.drift(), len(self._sessions)
        num_refused = self._decider.num_refused if isinstance(self._decider, ReloadingDecider) else 0
        return RouterStats(
            dict(counts.requests), counts.num_escalated, counts.num_drafts, drifted, num_sessions, num_refused
        )

    def max_usage(self, call: Call) -> Usage:
        """The most of any member, class by class. Raises UpstreamError where all refuse."""
        return largest_usage(self._asked, call)

    async def models(self) -> list[str]:
        return [self.name]

    async def aclose(self) -> None:
        """The members are closed by whoever made them: others may use them."""


def _is_elsewhere(error: UpstreamError) -> bool:
    """Whether another member may answer what this one did not."""
    return error.is_retryable or error.status >= 500 or error.code in ELSEWHERE


def _moved(error: UpstreamError | None) -> str:
    if error is not None and error.code == "context_length_exceeded":
        return "router context: longer than the model before takes"
    return f"fallback: {error.code if error else 'unavailable'}"

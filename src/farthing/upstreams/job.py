"""A call on its way through an engine, as its event loop sees it: what the engine's thread has to tell arrives here."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from farthing.economics.usage import Usage
from farthing.request import Done, Event, Request, Token
from farthing.upstreams.call import Allowance, Tally
from farthing.upstreams.errors import UpstreamError

__all__ = ["Job", "News", "Piece"]


@dataclass(slots=True)
class Piece:
    """What one choice got since it was last looked at: one token's text, or several's where the reader is slow."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)  # where log-probabilities were asked for
    finish_reason: str | None = None
    hidden: tuple[float, ...] = ()


@dataclass(slots=True)
class News:
    """What a step brought one job. events are (choice, event)."""

    job: "Job"
    usage: Usage
    queue_s: float | None = None  # None as long as it waits
    events: Sequence[tuple[int, Event]] = ()
    is_cut: bool = False  # its allowance is used up
    is_over: bool = False
    error: UpstreamError | None = None


class Job:
    """requests are answered together: num_choices for each prompt, one after the other; an allowance is asked after
    each step. `shown` are control tokens whose text belongs to the answer. The tally is kept current, also while
    nobody reads. Belongs to the loop it is made in."""

    def __init__(
        self,
        requests: Sequence[Request],
        num_choices: int = 1,
        allowance: Allowance | None = None,
        shown: Mapping[int, str] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.requests = requests
        self.num_choices = num_choices
        self.allowance = allowance
        self.loop = asyncio.get_running_loop()
        self.tally = tally or Tally()
        self.is_over = False
        self.error: UpstreamError | None = None
        self._shown = shown or {}
        self._wants_tokens = requests[0].params.logprobs is not None
        self._pieces: dict[int, Piece] = {}
        self._waiter: asyncio.Future[None] | None = None

    def take(self, news: News) -> None:
        """Called in the loop."""
        tally = self.tally
        tally.usage = news.usage
        if news.queue_s is not None:
            tally.queue_s = news.queue_s
        tally.is_cut |= news.is_cut
        self.error = self.error or news.error
        self.is_over |= news.is_over
        for index, event in news.events:
            piece = self._pieces.get(index)
            if piece is None:
                piece = self._pieces[index] = Piece(index)
            if isinstance(event, Done):
                # Nobody aborts a choice but the allowance, and those that do not read on.
                piece.finish_reason = "length" if event.finish_reason == "abort" else event.finish_reason
                piece.hidden = event.hidden
            else:
                piece.text += self._shown.get(event.token_id, "") + event.text if self._shown else event.text
                if self._wants_tokens:
                    piece.tokens.append(event)
        waiter = self._waiter
        if waiter is not None and (self._pieces or self.is_over) and not waiter.done():
            waiter.set_result(None)

    async def pieces(self) -> list[Piece]:
        """What has come since the last time, as soon as there is something; [] at the end. Raises UpstreamError."""
        while not self._pieces and not self.is_over:
            await self._wait()
        if self.error is not None:
            raise self.error
        pieces, self._pieces = list(self._pieces.values()), {}
        return pieces

    async def over(self) -> None:
        """Wait until the engine has let go of it. A cancellation meanwhile is kept for afterwards: what was used is not
        known before."""
        cancelled: asyncio.CancelledError | None = None
        while not self.is_over:
            self._pieces.clear()
            try:
                await self._wait()
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _wait(self) -> None:
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

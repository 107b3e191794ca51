"""A job inside an engine, as the engine's thread keeps it, and the ways it may fail."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.request import Event
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.job import Job, News

if TYPE_CHECKING:
    from farthing.engine import Engine

__all__ = ["RETRY_AFTER_S", "UnderWay", "closed", "failed", "used_up"]

RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class UnderWay:
    """Where a job stands."""

    job: Job
    submitted_s: float
    ids: dict[int, int] = field(default_factory=dict)  # request id -> choice, of those that are not done
    ended: dict[int, Usage] = field(default_factory=dict)  # choice -> what it used
    queue_s: float | None = None
    events: list[tuple[int, Event]] = field(default_factory=list)  # that were not told yet
    is_cut: bool = False
    error: UpstreamError | None = None
    has_answered: bool = False  # whether an event was told
    told_s: float | None = None  # when it was told something last

    def usage(self, engine: "Engine") -> Usage:
        """Of all choices together. Those of one prompt share its pages: it is counted once, the seconds are all."""
        parts = {choice: engine.usage(id) for id, choice in self.ids.items()} | self.ended
        if len(parts) == 1:
            return next(iter(parts.values()))
        total = sum(parts.values(), Usage())
        first = [part for choice, part in parts.items() if choice % self.job.num_choices == 0]
        return Usage(
            sum(part.input_tokens for part in first),
            sum(part.cache_read_tokens for part in first),
            total.output_tokens,
            total.input_s,
            total.output_s,
        )

    def charge(self, engine: "Engine") -> None:
        """Tell its allowance what it has used."""
        if self.job.allowance is not None and self.queue_s is not None:
            self.job.allowance.charge(self.usage(engine))

    @property
    def is_covered(self) -> bool:
        """Whether its allowance lets it be in another step."""
        return self.job.allowance is None or self.job.allowance.covers()

    def is_due(self, now_s: float, interval_s: float) -> bool:
        """Whether it is to be told: its beginning, first token and end at once, the rest every so often."""
        if not self.ids or self.told_s is None or (self.events and not self.has_answered):
            return True
        return now_s - self.told_s >= interval_s

    def news(self, engine: "Engine", now_s: float) -> News:
        """What is to be told now."""
        events, self.events = self.events, []
        self.told_s = now_s
        self.has_answered |= bool(events)
        return News(self.job, self.usage(engine), self.queue_s, events, self.is_cut, not self.ids, self.error)


def closed() -> UpstreamError:
    return UpstreamError("the server is shutting down", status=503, code="shutting_down", retry_after_s=RETRY_AFTER_S)


def used_up() -> UpstreamError:
    """Of a call that came to no step; asked again, it is told which budget."""
    what = "a budget was used up by other calls while this one waited; try again to learn when it begins anew"
    return UpstreamError(what, status=429, code="budget_exceeded", retry_after_s=RETRY_AFTER_S)


def failed() -> UpstreamError:
    return UpstreamError("the engine failed; the request was given up", status=500, code="engine_error")

"""What a request of a learned model cost over time, and where `farthing learn` put another version in service."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from farthing.ledger.row import Row
from farthing.report.bill_period import Period, day_of
from farthing.report.learn_history import Event

__all__ = ["HOUR_US", "Learned", "Part"]

HOUR_US = 3_600_000_000


@dataclass(slots=True)
class Part:
    """Requests of some time, and what they cost, their drafts included."""

    num_requests: int = 0
    cost_pico: int = 0
    num_unpriced: int = 0  # attempts without a price, in no sum

    @property
    def request_pico(self) -> int | None:
        """In the mean; None: there were none."""
        return round(self.cost_pico / self.num_requests) if self.num_requests else None

    def add(self, row: Row) -> None:
        self.num_requests += row.attempt == 0
        self.cost_pico += row.cost_pico or 0
        self.num_unpriced += row.cost_pico is None


@dataclass
class Learned:
    """events: where another version began to serve, by time. parts: before the first of them, then after each."""

    model: str
    events: Sequence[Event]
    first_version: str | None = None  # that served before the first of them; None: the large model answered alone
    parts: list[Part] = field(default_factory=list)
    hours: dict[int, Part] = field(default_factory=dict)  # by hours since 1970

    @classmethod
    def of(cls, model: str, history: Sequence[Event], period: Period) -> "Learned":
        """history: of its slot."""
        began = sorted((e for e in history if e.kind in ("promoted", "rolled back")), key=lambda e: e.at_us)
        before = [event for event in began if event.at_us < period.since_us]
        events = [event for event in began if period.since_us <= event.at_us < period.until_us]
        first = before[-1].version if before else events[0].replaced if events else None
        return cls(model, events, first)

    def __post_init__(self) -> None:
        self._times_us = [event.at_us for event in self.events]
        self.parts = [Part() for _ in range(len(self.events) + 1)]

    def add(self, row: Row) -> None:
        """Answers from the response cache are nobody's work, and no requests here."""
        if row.asked_model != self.model or row.cache is not None:
            return
        self.parts[bisect_right(self._times_us, row.started_us)].add(row)
        self.hours.setdefault(row.started_us // HOUR_US, Part()).add(row)

    def version(self, number: int) -> str | None:
        """That served in a part; None: the large model answered alone."""
        return self.events[number - 1].version if number else self.first_version

    @property
    def days(self) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for hour, part in sorted(self.hours.items()):
            day = found.setdefault(day_of(hour * HOUR_US), Part())
            day.num_requests += part.num_requests
            day.cost_pico += part.cost_pico
            day.num_unpriced += part.num_unpriced
        return found

"""What a router did, for metrics: calls by model and kind of route. No word of any prompt."""

from dataclasses import dataclass, field

from farthing.router.drift import Drift

__all__ = ["Counts", "RouterStats", "route_kind"]


def route_kind(route: str) -> str:
    """A route without its details: "cascade kept: p_right 0.91" is a "cascade kept"."""
    return route.partition(":")[0]


@dataclass(frozen=True)
class RouterStats:
    requests: dict[tuple[str, str], int]  # answered, by (model, kind)
    num_escalated: int
    num_drafts: int  # first answers of a cascade
    drift: Drift | None
    num_sessions: int
    num_refused: int  # files that could not be opened (reloading.py)


@dataclass(slots=True)
class Counts:
    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    num_escalated: int = 0
    num_drafts: int = 0

    def answered(self, model: str, route: str) -> None:
        key = (model, route_kind(route))
        self.requests[key] = self.requests.get(key, 0) + 1

    @property
    def escalated_share(self) -> float:
        """Of a cascade's answers so far; a half before there are any."""
        return (self.num_escalated + 1) / (self.num_drafts + 2)

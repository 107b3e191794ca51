"""How a request went, noted on its way for metrics and traces. It has no word of what was said."""

import time
from dataclasses import dataclass, field

from farthing.upstreams import Chunk, Receipt

__all__ = ["Outcome"]

GONE = 499  # the client went away before the end


@dataclass(slots=True)
class Outcome:
    """Times of time.perf_counter."""

    started_s: float = field(default_factory=time.perf_counter)
    status: int = GONE
    receipts: list[Receipt] = field(default_factory=list)  # the call's own list, which Metered adds to
    finish_reason: str | None = None
    first_token_s: float | None = None  # after started_s
    upstream_s: float | None = None  # between the call and its last piece

    def note(self, chunk: Chunk) -> None:
        """Called for every piece."""
        if self.first_token_s is None and (chunk.text or chunk.tool_calls or chunk.reasoning):
            self.first_token_s = time.perf_counter() - self.started_s
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

"""How a request went, noted on its way for metrics and traces. It has no word of what was said."""

import time
from dataclasses import dataclass, field

from farthing.server.otel import RequestSpan
from farthing.upstreams import Chunk, Receipt, Tally, UpstreamError

__all__ = ["GONE", "Outcome"]

GONE = 499  # the client went away before the end


@dataclass(slots=True)
class Outcome:
    """Times of time.perf_counter."""

    started_s: float = field(default_factory=time.perf_counter)
    status: int = GONE
    error: str | None = None  # a short code
    tally: Tally = field(default_factory=Tally)
    span: RequestSpan = field(default_factory=lambda: RequestSpan(None))
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

    def failed(self, error: UpstreamError) -> None:
        self.status, self.error = error.status, error.code

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

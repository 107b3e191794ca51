"""The ledger's row for an answer that was computed for another request: its tokens, no seconds, cost 0."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from farthing.economics.charge import Pricer
from farthing.ledger.ids import new_id, now_us
from farthing.ledger.row import Row, Status
from farthing.upstreams import Call, Chunk, Receipt, Tally

__all__ = ["Given", "receipt_of"]


@dataclass(slots=True)
class Given:
    """What is noted while the answer is given. Times in nanoseconds of the monotonic clock, but started_us."""

    number: int  # of the attempt
    started_us: int = field(default_factory=now_us)
    began_ns: int = field(default_factory=time.monotonic_ns)
    first_token_ns: int | None = None
    finish_reason: str | None = None
    status: Status = "ok"
    error: str | None = None

    def note(self, piece: Chunk) -> None:
        if self.first_token_ns is None and (piece.text or piece.tool_calls or piece.reasoning):
            self.first_token_ns = time.monotonic_ns()
        self.finish_reason = piece.finish_reason or self.finish_reason

    def row(self, call: Call, tally: Tally, pricer: Pricer) -> Row:
        """The baseline is what these tokens would have cost: without a cache they would have been computed again."""
        usage, is_known = tally.usage, tally.usage_source != "unavailable"
        at = datetime.fromtimestamp(self.started_us / 1e6, UTC)
        provider = tally.provider or None
        name = tally.model if tally.is_local else pricer.priced_model(tally.model, call.model, provider, at)
        model = pricer.baseline_model(name, is_local=tally.is_local) if name else None
        baseline = None
        if is_known and model is not None:
            baseline = pricer.baseline(usage, at, name, provider, is_local=tally.is_local).total_pico
        first_ns = self.first_token_ns
        return Row(
            id=new_id(self.started_us),
            request_id=call.id,
            attempt=self.number,
            started_us=self.started_us,
            key_id=call.key_id,
            project=call.project,
            tags=call.tags,
            endpoint=call.endpoint,
            asked_model=call.asked_model,
            upstream=tally.upstream,
            provider=tally.provider,
            served_model=tally.model,
            is_stream=call.is_stream,
            status=self.status,
            error=self.error,
            finish_reason=self.finish_reason,
            usage_source=tally.usage_source,
            input_tokens=usage.input_tokens if is_known else None,
            cache_read_tokens=usage.cache_read_tokens if is_known else None,
            cache_write_tokens=usage.cache_write_tokens if is_known else None,
            cache_write_1h_tokens=usage.cache_write_1h_tokens if is_known else None,
            output_tokens=usage.output_tokens if is_known else None,
            reasoning_tokens=usage.reasoning_tokens if is_known else None,
            compute_us=0,
            price_status="free",
            price_version="response cache",
            input_pico=0,
            cache_read_pico=0,
            cache_write_pico=0,
            output_pico=0,
            request_pico=0,
            cost_pico=0,
            baseline_model=model,
            baseline_pico=baseline,
            queue_us=0,
            first_token_us=None if first_ns is None else (first_ns - self.began_ns) // 1000,
            total_us=(time.monotonic_ns() - self.began_ns) // 1000,
            cache="hit",
            route=None,
        )


def receipt_of(row: Row, tally: Tally) -> Receipt:
    return Receipt(
        upstream=row.upstream,
        model=row.served_model,
        usage=tally.usage,
        usage_source=tally.usage_source,
        cost_pico=0,
        baseline_pico=row.baseline_pico,
        status=row.status,
        cache=row.cache,
    )

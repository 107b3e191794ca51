"""Makes the row and the receipt of one attempt, from what was asked, what was used and how it ended."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from farthing.economics.charge import Charge, Pricer
from farthing.economics.usage import Usage
from farthing.errors import FarthingError
from farthing.ledger.ids import new_id, now_us
from farthing.ledger.row import Row, Status
from farthing.upstreams.call import Call, Chunk, Receipt, Tally

__all__ = ["Attempt", "hosted_charge", "receipt_of"]

NOTHING = "nothing was used"  # the price version of an attempt that costs 0 whatever its tokens would have cost
MAX_TOKENS = 10**9  # of one attempt; what claims more is no count, and its price would not fit into 64 bits


@dataclass(slots=True)
class Attempt:
    """What is noted while an answer runs. Times in nanoseconds of the monotonic clock, but started_us."""

    id: str
    number: int
    started_us: int
    began_ns: int
    first_token_ns: int | None = None
    finish_reason: str | None = None
    status: Status = "ok"
    error: str | None = None

    @classmethod
    def begin(cls, call: Call) -> "Attempt":
        """The next attempt to answer a call, now."""
        started_us = now_us()
        return cls(new_id(started_us), len(call.receipts), started_us, time.monotonic_ns())

    def note(self, chunk: Chunk) -> None:
        if self.first_token_ns is None and (chunk.text or chunk.tool_calls or chunk.reasoning):
            self.first_token_ns = time.monotonic_ns()
        if chunk.finish_reason is not None:
            self.finish_reason = chunk.finish_reason

    def row(self, call: Call, tally: Tally, pricer: Pricer, ended_ns: int, route: str | None) -> Row:
        """An attempt of which nothing is known has no tokens and no cost; one that was never answered used none."""
        at = datetime.fromtimestamp(self.started_us / 1e6, UTC)
        usage, is_known = tally.usage, tally.usage_source != "unavailable"
        charge, baseline_model, baseline = self._money(call, tally, pricer, at)
        first_ns = self.first_token_ns
        return Row(
            id=self.id,
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
            input_tokens=_count(usage.input_tokens, is_known),
            cache_read_tokens=_count(usage.cache_read_tokens, is_known),
            cache_write_tokens=_count(usage.cache_write_tokens, is_known),
            cache_write_1h_tokens=_count(usage.cache_write_1h_tokens, is_known),
            output_tokens=_count(usage.output_tokens, is_known),
            reasoning_tokens=_count(usage.reasoning_tokens, is_known),
            compute_us=round(usage.compute_s * 1e6),
            price_status=charge.price_status,
            price_version=charge.price_version,
            input_pico=charge.input_pico,
            cache_read_pico=charge.cache_read_pico,
            cache_write_pico=charge.cache_write_pico,
            output_pico=charge.output_pico,
            request_pico=charge.request_pico,
            cost_pico=charge.total_pico,
            baseline_model=baseline_model,
            baseline_pico=baseline,
            queue_us=round(tally.queue_s * 1e6),
            first_token_us=None if first_ns is None else (first_ns - self.began_ns) // 1000,
            total_us=(ended_ns - self.began_ns) // 1000,
            cache=None,
            route=route,
        )

    def _money(self, call: Call, tally: Tally, pricer: Pricer, at: datetime) -> tuple[Charge, str | None, int | None]:
        """(cost, the model that it is compared with, what that would have cost)."""
        name = tally.model
        if not tally.is_local:
            name = pricer.priced_model(tally.model, call.model, tally.provider or None, at)
        baseline_model = pricer.baseline_model(name, is_local=tally.is_local) if name else None
        if tally.usage_source == "unavailable":
            return Charge("", "unpriced"), baseline_model, None
        charge = _charge(tally, name, pricer, at)
        baseline = None if baseline_model is None else _baseline_pico(tally, name, pricer, at)
        if not tally.is_local and tally.usage == Usage():
            baseline = baseline or 0
            if self.status == "error" or charge.price_status == "unpriced":
                charge = Charge(NOTHING, "free", 0, 0, 0, 0, 0)
        return charge, baseline_model, baseline


def hosted_charge(pricer: Pricer, model: str, provider: str, usage: Usage, at: datetime) -> Charge:
    """Unpriced also for counts that cannot be (more tokens from the cache than tokens): a row is not lost for that."""
    if usage.input_tokens + usage.output_tokens > MAX_TOKENS:
        return Charge("", "unpriced")
    try:
        return pricer.hosted(model, provider or None, usage, at)
    except FarthingError:
        return Charge("", "unpriced")


def _charge(tally: Tally, name: str, pricer: Pricer, at: datetime) -> Charge:
    if tally.is_local:
        return pricer.local(tally.usage)
    return hosted_charge(pricer, name, tally.provider, tally.usage, at)


def _baseline_pico(tally: Tally, name: str, pricer: Pricer, at: datetime) -> int | None:
    if tally.usage.input_tokens + tally.usage.output_tokens > MAX_TOKENS:
        return None
    try:
        charge = pricer.baseline(tally.usage, at, name, tally.provider or None, is_local=tally.is_local)
        return charge.total_pico
    except FarthingError:
        return None


def _count(tokens: int, is_known: bool) -> int | None:
    """What a provider reports is not always a count."""
    return tokens if is_known and 0 <= tokens <= MAX_TOKENS else None


def receipt_of(row: Row, tally: Tally) -> Receipt:
    return Receipt(
        upstream=row.upstream,
        model=row.served_model,
        usage=tally.usage,
        usage_source=tally.usage_source,
        cost_pico=row.cost_pico,
        baseline_pico=row.baseline_pico,
        status=row.status,
        error=row.error,
        cache=row.cache,
    )

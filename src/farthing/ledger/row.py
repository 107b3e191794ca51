"""One row of the ledger: one attempt to answer a call, written once and never changed."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Row", "Status"]

Status = Literal["ok", "discarded", "error", "aborted", "killed"]


@dataclass(frozen=True, slots=True)
class Row:
    """Times in microseconds since 1970 (UTC) or for, money in pico-dollars, None is not known (never 0).

    The five costs add up to cost_pico. A request that was tried at several upstreams has a row for each, with the same
    request_id and attempt 0, 1, …; a cascade's answers that were not
    good enough are "discarded". An answer from the response cache has one with cost 0 and cache "hit".
    """

    id: str  # unique; sorts by time
    request_id: str
    attempt: int
    started_us: int
    key_id: str | None  # None: nobody had to say who they are
    project: str | None
    tags: tuple[str, ...]
    endpoint: str  # chat, completions, responses, messages
    asked_model: str
    upstream: str
    provider: str
    served_model: str
    is_stream: bool
    status: Status
    error: str | None  # a short code, never what was said
    finish_reason: str | None
    usage_source: str  # provider, engine, estimated, unavailable
    input_tokens: int | None  # cache_read_tokens and cache_write_tokens included
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    cache_write_1h_tokens: int | None
    output_tokens: int | None  # reasoning_tokens included
    reasoning_tokens: int | None
    compute_us: int  # of this machine's engine
    price_status: str  # priced, local, free, unpriced
    price_version: str
    input_pico: int | None
    cache_read_pico: int | None
    cache_write_pico: int | None
    output_pico: int | None
    request_pico: int | None
    cost_pico: int | None
    baseline_model: str | None
    baseline_pico: int | None
    queue_us: int
    first_token_us: int | None  # from the call to the first piece that has text
    total_us: int
    cache: str | None  # hit, where the response cache answered
    route: str | None  # why this upstream: "fallback: upstream_unreachable"

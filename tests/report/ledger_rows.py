"""Rows of a ledger for tests: a hosted attempt that was answered, and what a test changes of it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from farthing.ledger.row import Row
from farthing.report.bill_period import Period, moment_us

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MONTH = Period(datetime(2026, 11, 1, tzinfo=UTC), NOW, NOW)
VERSION = "genai-prices 0.2.3, released 2026-11-10, gpt-5-nano at openai"

PLAIN = Row(
    id="r0",
    request_id="q0",
    attempt=0,
    started_us=moment_us(datetime(2026, 11, 20, 10, tzinfo=UTC)),
    key_id="k1",
    project="shop",
    tags=("web",),
    endpoint="chat",
    asked_model="nano",
    upstream="openai",
    provider="openai",
    served_model="gpt-5-nano",
    is_stream=False,
    status="ok",
    error=None,
    finish_reason="stop",
    usage_source="provider",
    input_tokens=1000,
    cache_read_tokens=0,
    cache_write_tokens=0,
    cache_write_1h_tokens=0,
    output_tokens=100,
    reasoning_tokens=0,
    compute_us=0,
    price_status="priced",
    price_version=VERSION,
    input_pico=50_000_000,
    cache_read_pico=0,
    cache_write_pico=0,
    output_pico=40_000_000,
    request_pico=0,
    cost_pico=90_000_000,
    baseline_model="gpt-5-nano",
    baseline_pico=90_000_000,
    queue_us=0,
    first_token_us=200_000,
    total_us=900_000,
    cache=None,
    route=None,
)


def row(num: int = 0, **changes: Any) -> Row:
    """The num-th row of its own request. Classes that are changed change the cost too, unless it is given."""
    made = replace(PLAIN, **({"id": f"r{num:09}", "request_id": f"q{num}"} | changes))
    parts = ("input_pico", "cache_read_pico", "cache_write_pico", "output_pico", "request_pico")
    if "cost_pico" not in changes and any(part in changes for part in parts):
        made = replace(made, cost_pico=sum(getattr(made, part) or 0 for part in parts))
    return made


def unpriced(num: int = 0, **changes: Any) -> Row:
    names = ("input", "cache_read", "cache_write", "output", "request", "cost", "baseline")
    nothing = {f"{name}_pico": None for name in names}
    return row(num, price_status="unpriced", price_version="", served_model="mystery", **{**nothing, **changes})


def hit(num: int = 0, **changes: Any) -> Row:
    return row(num, cache="hit", input_pico=0, output_pico=0, cost_pico=0, **changes)


def local(num: int = 0, **changes: Any) -> Row:
    given = {
        "served_model": "smollm2-135m-instruct",
        "upstream": "local",
        "provider": "local",
        "price_status": "local",
        "price_version": "0.0765 USD/h (as given)",
        "usage_source": "engine",
        "input_tokens": 1000,
        "cache_read_tokens": 600,
        "input_pico": 20_000_000,
        "output_pico": 30_000_000,
    }
    return row(num, **{**given, **changes})

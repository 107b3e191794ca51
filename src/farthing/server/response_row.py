"""The ledger's row for an answer that was computed for another request: its tokens, no seconds, cost 0."""

import time
from dataclasses import replace

from farthing.economics.charge import Pricer
from farthing.ledger.attempt import Attempt
from farthing.ledger.row import Row
from farthing.upstreams import Call, Tally

__all__ = ["given_row"]


def given_row(attempt: Attempt, call: Call, tally: Tally, pricer: Pricer) -> Row:
    """The baseline is what these tokens would have cost: without a cache they would have been computed again."""
    return replace(
        attempt.row(call, tally, pricer, time.monotonic_ns(), None),
        compute_us=0,
        price_status="free",
        price_version="response cache",
        input_pico=0,
        cache_read_pico=0,
        cache_write_pico=0,
        output_pico=0,
        request_pico=0,
        cost_pico=0,
        queue_us=0,
        cache="hit",
    )

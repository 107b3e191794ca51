"""A leaf that answers as it is told, and what the tests ask of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.price_file import Override
from farthing.economics.prices import PriceBook, Rate, Source
from farthing.economics.usage import Usage
from farthing.ledger import Row
from farthing.ledger.ids import new_id
from farthing.ledger.records import COLUMNS
from farthing.upstreams.call import Call, Chunk, Tally, UsageSource
from farthing.upstreams.errors import UpstreamError

MODEL = "test-model"
WORDS = (Chunk(text="one"), Chunk(text=" two"), Chunk(finish_reason="stop"))
USD_PER_HOUR = Decimal(36)  # a cent a second


def pricer() -> Pricer:
    """test-model: 1 USD per million tokens in, 2 out; this machine: a cent a second."""
    day = date(2026, 1, 1)
    rates = {"input": Rate(Decimal(1)), "output": Rate(Decimal(2)), "cache_read": Rate(Decimal("0.1"))}
    price = Override(MODEL, None, day, Source("test", day, "valid from"), rates, None, None)
    return Pricer(PriceBook((price,)), HostCost(usd_per_hour=USD_PER_HOUR), MODEL)


@dataclass
class Leaf:
    chunks: Sequence[Chunk] = WORDS
    usage: Usage = field(default_factory=lambda: Usage(10, 0, 2))
    usage_source: UsageSource = "provider"
    most: Usage = field(default_factory=lambda: Usage(10, 0, 100))  # max_usage, but for what the call allows
    error: BaseException | None = None  # after the chunks
    is_endless: bool = False  # waits after the chunks, until it is closed
    name: str = "leaf"
    asked: list[Call] = field(default_factory=list)
    is_closed: bool = False

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.asked.append(call)
        try:
            for chunk in self.chunks:
                yield chunk
            if self.is_endless:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
        finally:
            await asyncio.sleep(0)  # as a leaf that must tell a server to stop
            tally.usage, tally.usage_source = self.usage, self.usage_source
            self.is_closed = True

    def max_usage(self, call: Call) -> Usage:
        allowed = call.max_output_tokens
        output = self.most.output_tokens if allowed is None else min(allowed, self.most.output_tokens)
        return Usage(self.most.input_tokens, 0, output)

    async def models(self) -> list[str]:
        return [MODEL]

    async def aclose(self) -> None:
        pass


def a_call(**given: Any) -> Call:
    return Call(**{"id": new_id(), "wire": "chat", "body": {}, "model": MODEL, "endpoint": "chat"} | given)


def a_row(**given: Any) -> Row:
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    texts = ("endpoint", "asked_model", "upstream", "provider", "served_model", "price_version")
    numbers = ("attempt", "compute_us", "queue_us", "total_us", "started_us")
    plain = dict.fromkeys(texts, "") | dict.fromkeys(numbers, 0)
    words = {"status": "ok", "usage_source": "provider", "price_status": "priced"}
    row = empty | plain | words | {"id": new_id(), "request_id": new_id(), "tags": (), "is_stream": False}
    return Row(**row | given)


def refused(status: int = 502) -> UpstreamError:
    return UpstreamError("it failed", status=status, code="upstream_failed")

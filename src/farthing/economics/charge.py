"""Money as the ledger keeps it: whole pico-dollars (1e-12 USD), one amount for each class of tokens.

A class is rounded once, and the total is the sum of the classes, so what is exported class by class adds up to the last
pico-dollar. A price that is not known makes every amount None, never 0.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

from farthing.economics.cost import HostCost
from farthing.economics.prices import Price, PriceBook, TokenCounts
from farthing.economics.usage import Usage
from farthing.errors import PriceError

__all__ = ["DEFAULT_BASELINE", "Charge", "Pricer", "pico", "usd"]

DEFAULT_BASELINE = "gpt-5-nano"  # what local tokens are compared with, where the configuration names nothing
PICO = Decimal("1e-12")
PriceStatus = Literal["priced", "local", "free", "unpriced"]
SPAN_S = 900  # a price is looked up again after so long: prices change at dates and times of day


def pico(amount_usd: Decimal) -> int:
    """US dollars as whole pico-dollars, rounded half to even."""
    return int(amount_usd.scaleb(12).to_integral_value(ROUND_HALF_EVEN))


def usd(amount_pico: int) -> Decimal:
    return Decimal(amount_pico).scaleb(-12)


@dataclass(frozen=True, slots=True)
class Charge:
    """What one attempt costs, in pico-dollars per class of tokens; all None where the price is not known."""

    price_version: str  # where the price comes from, with its date; "" where none was found
    price_status: PriceStatus
    input_pico: int | None = None  # of tokens that were neither read from a cache nor written to one
    cache_read_pico: int | None = None
    cache_write_pico: int | None = None
    output_pico: int | None = None
    request_pico: int | None = None  # a price per call

    @property
    def total_pico(self) -> int | None:
        parts = (self.input_pico, self.cache_read_pico, self.cache_write_pico, self.output_pico, self.request_pico)
        if self.price_status == "unpriced":
            return None
        return sum(part or 0 for part in parts)


class Pricer:
    """Prices usage: hosted tokens by the price list, local ones by this machine's seconds, and their baselines."""

    def __init__(self, book: PriceBook, host: HostCost, baseline_model: str | None = None) -> None:
        self.host = host
        self._book = book
        self._baseline_model = baseline_model
        self._found: dict[tuple[str, str | None, int], Price | None] = {}

    def local(self, usage: Usage) -> Charge:
        """By the seconds of this machine that the tokens took; tokens read from the cache took none."""
        return Charge(
            price_version=f"{self.host.usd_per_hour} USD/h ({self.host.source})",
            price_status="local",
            input_pico=pico(self.host.usd(usage.input_s)),
            cache_read_pico=0,
            cache_write_pico=0,
            output_pico=pico(self.host.usd(usage.output_s)),
            request_pico=0,
        )

    def hosted(self, model: str, provider: str | None, usage: Usage, at: datetime) -> Charge:
        """By the price list at that moment. An unknown price, of the model or of a class that was used, is unpriced."""
        price = self._price(model, provider, at)
        if price is None:
            return Charge("", "unpriced")
        counts = TokenCounts(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.cache_write_1h_tokens,
        )
        try:
            items = {item.name: pico(item.usd) for item in price.bill(counts).items}
        except PriceError:
            return Charge(price.source.text, "unpriced")
        return Charge(
            price_version=f"{price.source.text}, {price.model} at {price.provider}",
            price_status="priced" if any(items.values()) or not any(vars(counts).values()) else "free",
            input_pico=items.get("input", 0),
            cache_read_pico=items.get("cache_read", 0),
            cache_write_pico=items.get("cache_write", 0) + items.get("cache_write_1h", 0),
            output_pico=items.get("output", 0),
            request_pico=items.get("request", 0),
        )

    def baseline(self, usage: Usage, at: datetime, model: str, provider: str | None, *, is_local: bool) -> Charge:
        """What the same tokens would have cost without any saving: all input at the full price of the baseline's model.

        That is the model the configuration names; where it names none, the hosted model itself, or for local tokens
        DEFAULT_BASELINE. Token counts are taken as they are: another tokenizer counts otherwise.
        """
        plain = Usage(usage.input_tokens, 0, usage.output_tokens)
        name = self.baseline_model(model, is_local=is_local)
        return self.hosted(name, provider if name == model and not is_local else None, plain, at)

    def baseline_model(self, model: str, *, is_local: bool) -> str:
        return self._baseline_model or (DEFAULT_BASELINE if is_local else model)

    def priced_model(self, model: str, asked: str, provider: str | None, at: datetime) -> str:
        """The name to price by: the model's, as its provider reports it, or where no price is known for that (a
        dated one, a gateway's own) the name that was asked for at the same provider."""
        if self._price(model, provider, at) is None and self._price(asked, provider, at) is not None:
            return asked
        return model

    def _price(self, model: str, provider: str | None, at: datetime) -> Price | None:
        key = (model, provider, int(at.timestamp()) // SPAN_S)
        if key not in self._found:
            if len(self._found) >= 4096:
                self._found.clear()
            self._found[key] = self._look_up(model, provider, at)
        return self._found[key]

    def _look_up(self, model: str, provider: str | None, at: datetime) -> Price | None:
        """The provider's own price; a provider that no list knows (a gateway's name) may sell a model that one does."""
        try:
            return self._book.find(model, at=at, provider=provider)
        except PriceError:
            return None

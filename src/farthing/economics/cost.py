"""What this machine's tokens cost, what the same tokens cost hosted, and where the two meet.

    full cost      usd_per_hour / 3600 x seconds / utilisation: an hour is paid whether it is used or not
    marginal cost  watts x seconds / 3,600,000 x usd_per_kwh: energy alone, for a machine that stands there anyway

A rented machine's price per hour contains its energy, so the two are shown side by side, never added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from farthing.economics.prices import Bill, Price, PriceBook, TokenCounts
from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest, PriceError

__all__ = ["DEFAULT_HOSTED", "HostCost", "HostedCost", "break_even_utilisation", "hosted_costs"]

DEFAULT_USD_PER_HOUR = Decimal("0.0765")
DEFAULT_SOURCE = "AWS c6a.large, 2 vCPU Zen 3, on demand, us-east-1, November 2026; yours: --usd-per-hour"
DEFAULT_HOSTED = ("gpt-5-nano", "gemini-3.5-flash", "claude-opus-5-5")  # a small, a middle and a frontier model
PICO_USD = Decimal("1e-12")
MAX_SECONDS = Decimal(10) ** 11
MTOK = 1_000_000


@dataclass(frozen=True)
class HostCost:
    """The price of a machine. Amounts are rounded once, to 1e-12 USD. InvalidRequest for a value out of range."""

    usd_per_hour: Decimal = DEFAULT_USD_PER_HOUR
    utilisation: Decimal = Decimal(1)  # the share of its paid time in which the machine works
    watts: Decimal | None = None
    usd_per_kwh: Decimal | None = None

    def __post_init__(self) -> None:
        ranges = (("usd_per_hour", 10**6), ("utilisation", 1), ("watts", 10**7), ("usd_per_kwh", 10**4))
        for name, highest in ranges:
            value: Decimal | None = getattr(self, name)
            if value is None:
                continue
            is_free = value == 0 and name != "utilisation"
            if not value.is_finite() or not (0 < value <= highest or is_free):
                least = "above 0 and at most" if name == "utilisation" else "0 to"
                raise InvalidRequest(f"{name} is {value}; allowed: {least} {highest:,}")
        if (self.watts is None) != (self.usd_per_kwh is None):
            raise InvalidRequest("marginal cost needs both watts and usd_per_kwh; give both or neither")

    @property
    def source(self) -> str:
        """Where the price per hour comes from, for people."""
        return DEFAULT_SOURCE if self.usd_per_hour == DEFAULT_USD_PER_HOUR else "as given"

    def usd(self, seconds: float | Decimal) -> Decimal:
        """Full cost of being busy for `seconds`."""
        return (self.usd_per_hour * _seconds(seconds) / (3600 * self.utilisation)).quantize(PICO_USD)

    def energy_usd(self, seconds: float | Decimal) -> Decimal | None:
        """Marginal cost of being busy for `seconds`; None where watts and tariff are not known."""
        if self.watts is None or self.usd_per_kwh is None:
            return None
        return (self.watts * _seconds(seconds) * self.usd_per_kwh / 3_600_000).quantize(PICO_USD)

    def usd_per_mtok(self, tokens: int, seconds: float | Decimal) -> Decimal:
        """Full cost of a million tokens when `tokens` keep the machine busy for `seconds`."""
        return _per_mtok(self.usd_per_hour * _seconds(seconds) / (3600 * self.utilisation), tokens)

    def energy_usd_per_mtok(self, tokens: int, seconds: float | Decimal) -> Decimal | None:
        if self.watts is None or self.usd_per_kwh is None:
            return None
        return _per_mtok(self.watts * _seconds(seconds) * self.usd_per_kwh / 3_600_000, tokens)


def _seconds(seconds: float | Decimal) -> Decimal:
    exact = Decimal(seconds)
    if not exact.is_finite() or not 0 <= exact <= MAX_SECONDS:
        raise InvalidRequest(f"seconds is {seconds}; allowed: 0 to {MAX_SECONDS:,.0f}")
    return exact


def _per_mtok(usd: Decimal, tokens: int) -> Decimal:
    if tokens <= 0:
        raise InvalidRequest(f"tokens is {tokens}; a price per million tokens needs at least one")
    return (usd * MTOK / tokens).quantize(PICO_USD)


@dataclass(frozen=True)
class HostedCost:
    """The same tokens at a hosted model: every input token at the full price, and with what was read from our cache
    at the provider's price for cached input (None where that price is not known)."""

    price: Price
    bill: Bill
    usd: Decimal
    usd_with_cache: Decimal | None
    usd_per_mtok: Decimal  # of usd, blended over input and output


def hosted_costs(
    usage: Usage, models: Sequence[str] = DEFAULT_HOSTED, *, at: datetime, book: PriceBook | None = None
) -> tuple[HostedCost, ...]:
    """Price one usage at several hosted models. Token counts are taken as they are: another tokenizer counts otherwise.

    Tiers need the size of each request, so a usage that adds many requests is priced at the lowest tier.
    Raises UnknownModel or PriceError (see PriceBook.find), and InvalidRequest for a usage without tokens.
    """
    book = book or PriceBook()
    return tuple(_hosted(usage, book.find(model, at=at)) for model in models)


def _hosted(usage: Usage, price: Price) -> HostedCost:
    lowest = price.lowest_tier()
    bill = lowest.bill(TokenCounts(usage.input_tokens, usage.output_tokens))
    try:
        counts = TokenCounts(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
        with_cache = lowest.bill(counts).total_usd
    except PriceError:
        with_cache = None
    total = bill.total_usd
    return HostedCost(price, bill, total, with_cache, _per_mtok(total, usage.input_tokens + usage.output_tokens))


def break_even_utilisation(host: HostCost, seconds: float | Decimal, hosted_usd: Decimal) -> Decimal | None:
    """The utilisation at which this machine's tokens cost what the hosted ones do.

    Above 1: even a fully used machine is dearer, by that factor. None where the hosted tokens are free: never.
    """
    if hosted_usd <= 0:
        return None
    return host.usd_per_hour * _seconds(seconds) / (3600 * hosted_usd)

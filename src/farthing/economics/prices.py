"""Prices of hosted models, and the bill for a number of tokens. An unknown price is an error, never 0.

A price is dated data: `PriceBook.find(model, at=...)` gives the one valid at a moment, from the user's TOML file first,
then from the package genai-prices. The file (whole format: price_file.py) is only ever appended to:

    [[price]]
    model = "my-model"
    from = 2026-10-01              # valid from this day on (UTC); of several entries the latest valid one counts
    input = 0.25                   # USD per million tokens
    output = 1.00
"""

from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Context, Decimal, Inexact, localcontext
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from farthing.errors import InvalidRequest, PriceError

if TYPE_CHECKING:
    from farthing.economics.price_file import Override

__all__ = ["Bill", "LineItem", "Price", "PriceBook", "Rate", "Source", "TokenCounts", "usd_text"]

MAX_TOKENS = 10**15
STALE_DAYS = 90
_EXACT = Context(prec=200, traps=[Inexact])  # sums and products of money are exact, or our own bug


@dataclass(frozen=True)
class TokenCounts:
    """What is billed. input_tokens holds everything read, so it includes cache_read_tokens and cache_write_tokens;
    cache_write_tokens includes cache_write_1h_tokens. Raises InvalidRequest for counts that cannot be.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if not 0 <= count <= MAX_TOKENS:
                raise InvalidRequest(f"{name} is {count}; allowed: 0 to {MAX_TOKENS:,}")
        if self.cache_read_tokens + self.cache_write_tokens > self.input_tokens:
            raise InvalidRequest(
                f"cache_read_tokens ({self.cache_read_tokens:,}) and cache_write_tokens ({self.cache_write_tokens:,})"
                f" are part of input_tokens, so together they cannot exceed it ({self.input_tokens:,})"
            )
        if self.cache_write_1h_tokens > self.cache_write_tokens:
            raise InvalidRequest(
                f"cache_write_1h_tokens ({self.cache_write_1h_tokens:,}) are part of cache_write_tokens"
                f" ({self.cache_write_tokens:,}) and cannot exceed them"
            )


@dataclass(frozen=True)
class Rate:
    """USD per million tokens. `tiers` is a cliff: above a number of input tokens the WHOLE request costs that price."""

    usd_per_mtok: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()  # (above this many input tokens, USD per million tokens), ascending

    def at(self, input_tokens: int) -> Decimal:
        price = self.usd_per_mtok
        for above, upper in self.tiers:
            if input_tokens > above:
                price = upper
        return price


@dataclass(frozen=True)
class Source:
    """Where a price comes from and how old it is."""

    name: str
    dated: date
    dated_by: str  # what happened on that date

    @property
    def text(self) -> str:
        return f"{self.name}, {self.dated_by} {self.dated}"

    def warning(self, today: date) -> str | None:
        """A sentence when the price is older than 90 days."""
        age = (today - self.dated).days
        if age <= STALE_DAYS:
            return None
        return f"this price is {age} days old ({self.text}); check it before relying on it"


@dataclass(frozen=True)
class LineItem:
    name: str
    tokens: int
    usd_per_mtok: Decimal
    usd: Decimal


@dataclass(frozen=True)
class Bill:
    items: tuple[LineItem, ...]

    @property
    def total_usd(self) -> Decimal:
        with localcontext(_EXACT):
            return sum((item.usd for item in self.items), Decimal(0))


@dataclass(frozen=True)
class Price:
    """What one model costs at one moment. A rate of None is unknown (not free)."""

    KINDS: ClassVar = ("input", "output", "cache_read", "cache_write", "cache_write_1h")

    model: str
    provider: str
    source: Source
    input: Rate | None
    output: Rate | None
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    cache_write_1h: Rate | None = None
    usd_per_request: Decimal | None = None
    batch: bool = False

    def bill(self, counts: TokenCounts) -> Bill:
        """Line items (each token in exactly one) that sum to the total exactly; input and output are always listed.

        The tier is chosen by all input tokens, cached ones included. Raises PriceError where tokens were used whose
        price is not known.
        """
        cached = counts.cache_read_tokens + counts.cache_write_tokens
        lines = (
            ("input", counts.input_tokens - cached),
            ("cache_read", counts.cache_read_tokens),
            ("cache_write", counts.cache_write_tokens - counts.cache_write_1h_tokens),
            ("cache_write_1h", counts.cache_write_1h_tokens),
            ("output", counts.output_tokens),
        )
        items = []
        with localcontext(_EXACT):
            for name, tokens in lines:
                rate: Rate | None = getattr(self, name)
                if tokens == 0 and (rate is None or name.startswith("cache")):
                    continue
                if rate is None:
                    raise self._unknown(name, tokens)
                usd_per_mtok = rate.at(counts.input_tokens)
                items.append(LineItem(name, tokens, usd_per_mtok, (usd_per_mtok * tokens).scaleb(-6)))
            if self.usd_per_request:
                items.append(LineItem("request", 0, Decimal(0), self.usd_per_request))
        return Bill(tuple(items))

    def lowest_tier(self) -> "Price":
        """The same price without its upper tiers."""
        rates = {kind: getattr(self, kind) for kind in self.KINDS}
        return replace(self, **{kind: rate and replace(rate, tiers=()) for kind, rate in rates.items()})

    def tier(self, input_tokens: int) -> int | None:
        """The number of input tokens above which the upper price holds, if this request is above it."""
        rates = [rate for rate in (self.input, self.output) if rate is not None]
        return max((above for rate in rates for above, _ in rate.tiers if input_tokens > above), default=None)

    def _unknown(self, name: str, tokens: int) -> PriceError:
        words = name.replace("_", "-")
        return PriceError(
            f"no {words} price is known for {self.model!r} ({self.provider}), so {tokens:,} {words} tokens cannot be"
            f" priced; state it in a TOML file (--prices)"
        )


class PriceBook:
    """Every known price: the user's file (`PriceBook.load(path)`) before the package (`PriceBook()` knows it alone)."""

    def __init__(self, overrides: "tuple[Override, ...]" = ()) -> None:
        self._overrides = overrides

    @classmethod
    def load(cls, path: Path) -> "PriceBook":
        """Raises PriceError, naming file and entry, for a file that cannot be read or understood."""
        from farthing.economics.price_file import read_overrides

        return cls(read_overrides(path))

    def find(self, model: str, *, at: datetime, provider: str | None = None, batch: bool = False) -> Price:
        """The price valid at a moment. Raises UnknownModel with the nearest names, or PriceError (see the sources)."""
        from farthing.economics.price_file import override_price
        from farthing.economics.price_sources import package_price

        own = override_price(self._overrides, model, at, provider, batch)
        if own is not None:
            return own
        return package_price(model, at, provider, batch, tuple(entry.model for entry in self._overrides))


def usd_text(*amounts: Decimal, places: int = 2) -> list[str]:
    """Amounts as plain decimals with as many places as the longest needs, two at least: 0.100, 0.024."""
    needed = max([places, *(-int(amount.normalize().as_tuple().exponent) for amount in amounts)])
    with localcontext(_EXACT):
        return [f"{amount:.{needed}f}" for amount in amounts]

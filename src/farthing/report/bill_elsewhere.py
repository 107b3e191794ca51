"""What imported traffic would have cost elsewhere: at other hosted models, and on this machine.

What it did cost is priced by the list as of each row's day; elsewhere by the list as of now. Rows that add up several
requests are priced at the lowest tier, as their sizes are not known. Token counts are taken as they are: another
tokenizer counts otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from farthing.economics.charge import pico
from farthing.economics.prices import Price, PriceBook, TokenCounts
from farthing.errors import PriceError
from farthing.ledger.row import Row
from farthing.report.bill_import import Use

__all__ = ["Comparison", "Local", "ModelUse", "Target", "compare", "measured_local"]

MTOK = 1_000_000
MAX_MODELS = 10_000


@dataclass
class ModelUse:
    """Of one model in the file. priced_pico and spend_of_priced_pico are over rows that have both, to be compared."""

    num_requests: int = 0
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    num_hits: int = 0  # requests answered from the gateway's own cache; priced at 0, as there
    num_unpriced: int = 0  # rows
    cost_pico: int = 0  # by our prices
    num_with_spend: int = 0  # rows
    spend_pico: int = 0  # as the file says
    priced_pico: int = 0
    spend_of_priced_pico: int = 0


@dataclass
class Target:
    """A place where the traffic could have gone. with_cache_pico None: its price of cached input is not known."""

    name: str
    source: str
    cost_pico: int = 0  # every input token at the full price
    with_cache_pico: int | None = 0  # what was read from a cache there, read from one here


@dataclass(frozen=True)
class Local:
    """What a million tokens cost on this machine; an input token found in the cache costs nothing."""

    usd_per_mtok_in: Decimal
    usd_per_mtok_out: Decimal
    source: str


@dataclass
class Comparison:
    models: dict[str, ModelUse] = field(default_factory=dict)
    total: ModelUse = field(default_factory=ModelUse)
    targets: list[Target] = field(default_factory=list)
    is_aggregated: bool = False
    first_day: str = ""
    last_day: str = ""


def measured_local(rows: Iterable[Row]) -> Local | None:
    """This machine's own rates, from answers it gave; None where it computed no input or no output."""
    num = num_in = num_out = in_pico = out_pico = 0
    for row in rows:
        if row.price_status == "local" and row.cost_pico is not None and row.cache != "hit":
            num += 1
            num_in += max(0, (row.input_tokens or 0) - (row.cache_read_tokens or 0))
            num_out += row.output_tokens or 0
            in_pico += row.input_pico or 0
            out_pico += row.output_pico or 0
    if not num_in or not num_out:
        return None
    return Local(
        _per_mtok(in_pico, num_in), _per_mtok(out_pico, num_out), f"measured over {num:,} local rows of the ledger"
    )


def _per_mtok(amount_pico: int, num_tokens: int) -> Decimal:
    return (Decimal(amount_pico) * MTOK / num_tokens).scaleb(-12).quantize(Decimal("1e-12"))


class _Prices:
    """Prices by (model, provider, day, batch), looked up once each."""

    def __init__(self, book: PriceBook, now: datetime) -> None:
        self._book, self._now = book, now
        self._found: dict[tuple[str, str | None, str, bool], Price | None] = {}

    def of(self, use: Use) -> Price | None:
        key = (use.model, use.provider, use.day, use.is_batch)
        if key not in self._found:
            if len(self._found) > 50_000:
                self._found.clear()
            self._found[key] = self._look_up(use)
        return self._found[key]

    def _look_up(self, use: Use) -> Price | None:
        """At its provider; else by name alone (a gateway's name for a provider is not always the list's)."""
        at = datetime.fromisoformat(use.day).replace(tzinfo=UTC) if use.day else self._now
        for name, provider in (
            (use.model, use.provider),
            (use.model.rpartition("/")[2], use.provider),
            (use.model, None),
            (use.model.rpartition("/")[2], None),
        ):
            try:
                return self._book.find(name, at=at, provider=provider, batch=use.is_batch)
            except PriceError:
                continue
        return None


def compare(
    uses: Iterable[Use], models: Sequence[str], book: PriceBook, now: datetime, local: Local | None = None
) -> Comparison:
    """One pass over the uses. Raises UnknownModel or PriceError where one of `models` has no price."""
    prices = [book.find(model, at=now) for model in models]
    found = Comparison(targets=[Target(price.model, f"{price.source.text}, at {price.provider}") for price in prices])
    known = _Prices(book, now)
    rates = [(price, price.lowest_tier()) for price in prices]
    own = Target("this machine", local.source) if local else None
    for use in uses:
        name = use.model if use.model in found.models or len(found.models) < MAX_MODELS else "(other)"
        own_price = known.of(use)
        for sums in (found.total, found.models.setdefault(name, ModelUse())):
            _add(sums, use, own_price)
        for target, (price, lowest) in zip(found.targets, rates, strict=True):
            _add_target(target, use, lowest if use.is_aggregated else price)
        if own is not None and local is not None:
            _add_local(own, use, local)
        found.is_aggregated |= use.is_aggregated
        if use.day:
            found.first_day = min(found.first_day or use.day, use.day)
            found.last_day = max(found.last_day, use.day)
    found.targets += [own] if own else []
    return found


def _add(sums: ModelUse, use: Use, price: Price | None) -> None:
    sums.num_requests += use.num_requests
    sums.input_tokens += use.input_tokens
    sums.cache_read_tokens += use.cache_read_tokens
    sums.cache_write_tokens += use.cache_write_tokens
    sums.output_tokens += use.output_tokens
    sums.num_hits += use.num_requests if use.is_hit else 0
    cost = 0 if use.is_hit else _cost(use, price)
    spend = None if use.spend_usd is None else pico(use.spend_usd)
    sums.num_unpriced += cost is None
    sums.cost_pico += cost or 0
    if spend is not None:
        sums.num_with_spend += 1
        sums.spend_pico += spend
        if cost is not None:
            sums.priced_pico += cost
            sums.spend_of_priced_pico += spend


def _cost(use: Use, price: Price | None) -> int | None:
    if price is None:
        return None
    counts = TokenCounts(use.input_tokens, use.output_tokens, use.cache_read_tokens, use.cache_write_tokens)
    return _pico(price.lowest_tier() if use.is_aggregated else price, counts, use)


def _add_target(target: Target, use: Use, price: Price) -> None:
    plain = _pico(price, TokenCounts(use.input_tokens, use.output_tokens), use)
    if plain is None:
        raise PriceError(f"{target.name} has no price for both input and output tokens; leave it out of --models")
    target.cost_pico += plain
    if target.with_cache_pico is not None:
        cached = _pico(price, TokenCounts(use.input_tokens, use.output_tokens, use.cache_read_tokens), use)
        target.with_cache_pico = None if cached is None else target.with_cache_pico + cached


def _pico(price: Price, counts: TokenCounts, use: Use) -> int | None:
    """A price per request counts for each of them."""
    try:
        items = price.bill(counts).items
    except PriceError:
        return None
    return sum(pico(item.usd * (use.num_requests if item.name == "request" else 1)) for item in items)


def _add_local(target: Target, use: Use, local: Local) -> None:
    output = local.usd_per_mtok_out * use.output_tokens
    target.cost_pico += pico((local.usd_per_mtok_in * use.input_tokens + output) / MTOK)
    computed = use.input_tokens - use.cache_read_tokens
    assert target.with_cache_pico is not None
    target.with_cache_pico += pico((local.usd_per_mtok_in * computed + output) / MTOK)

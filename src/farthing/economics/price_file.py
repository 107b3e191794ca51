"""A user's own prices: a TOML file of dated entries, appended to and never rewritten.

    [[price]]
    model = "my-model"
    provider = "my-gateway"        # optional: without it the entry answers for every provider
    from = 2026-10-01              # valid from this day on (UTC)
    checked = 2026-11-20           # optional: when you last looked; the price's age counts from here, else from `from`
    input = 0.25                   # USD per million tokens; optional, like output: what is not stated is unknown
    output = 1.00
    cache_read = 0.025             # optional: cache_read, cache_write, cache_write_1h, per_request (USD)
    batch = { input = 0.125, output = 0.50 }                         # optional: the same keys
    tiers = [{ above = 200000, input = 0.50, output = 1.50 }]        # optional: above so many input tokens the WHOLE
                                                                     # request costs this
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from farthing.economics.prices import Price, Rate, Source
from farthing.errors import PriceError

__all__ = ["Override", "default_path", "override_price", "read_overrides"]

_KEYS = {"model", "provider", "from", "checked", *Price.KINDS, "per_request", "batch", "tiers"}
_MOST = Decimal(100_000)
_LEAST = Decimal("0.0001")


@dataclass(frozen=True)
class Override:
    """One [[price]] of the file."""

    model: str
    provider: str | None
    starts: date
    source: Source
    standard: Mapping[str, Rate]
    batch: Mapping[str, Rate] | None
    usd_per_request: Decimal | None


def default_path() -> Path:
    """Where a user keeps prices: farthing/prices.toml in the configuration folder. Nothing lies there of a user without
    a home, as a service's may be: expanduser leaves the ~ as it is, where Path.home raises."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.config")) / "farthing" / "prices.toml"


def override_price(
    overrides: tuple[Override, ...], model: str, at: datetime, provider: str | None, batch: bool
) -> Price | None:
    """The user's price valid at a moment (of two from the same day the later in the file), or None where there is none.

    Raises PriceError where the entry has no batch price and one is asked for.
    """
    day = (at if at.tzinfo is None else at.astimezone(UTC)).date()
    asked = (model.strip().lower(), provider and provider.strip().lower())
    found: Override | None = None
    for entry in overrides:
        is_asked = entry.model == asked[0] and (asked[1] is None or entry.provider in (None, asked[1]))
        if is_asked and entry.starts <= day and (found is None or entry.starts >= found.starts):
            found = entry
    if found is None:
        return None
    rates = found.batch if batch else found.standard
    if rates is None:
        raise PriceError(f"no batch price is stated for {model!r} in {found.source.name}; add batch = {{...}} there")
    by_kind = {kind: rates.get(kind) for kind in Price.KINDS}
    return Price(
        model=model.strip(),
        provider=provider or found.provider or "any provider",
        source=found.source,
        batch=batch,
        usd_per_request=found.usd_per_request,
        **by_kind,
    )


def read_overrides(path: Path) -> tuple[Override, ...]:
    """Read the file (format: the top of this module). Raises PriceError naming the file, the entry and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise PriceError(f"the price file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PriceError(f"the price file {path} is not valid TOML: {error}") from error
    _refuse_unknown(document, {"price"}, f"{path}")
    entries = document.get("price", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise PriceError(f"{path}: prices are written as [[price]], with two brackets")
    return tuple(_entry(entry, f"{path}, entry {number}", path) for number, entry in enumerate(entries, 1))


def _entry(entry: dict[str, Any], where: str, path: Path) -> Override:
    _refuse_unknown(entry, _KEYS, where)
    starts = _date(entry, "from", where)
    model = entry.get("model")
    provider = entry.get("provider")
    if not isinstance(model, str) or not model.strip() or starts is None:
        raise PriceError(f'{where}: model = "..." and from = YYYY-MM-DD are needed')
    if not isinstance(provider, str | None):
        raise PriceError(f"{where}: provider is {provider!r}; write a string")
    tiers = _tiers(entry.get("tiers", []), where)
    standard = _rates(entry, tiers, where)
    if not standard:
        raise PriceError(f"{where}: states no price; give input and output in USD per million tokens")
    batch = entry.get("batch")
    if batch is not None:
        if not isinstance(batch, dict):
            raise PriceError(f"{where}: batch is {batch!r}; write batch = {{ input = ..., output = ... }}")
        _refuse_unknown(batch, set(Price.KINDS) | {"tiers"}, f"{where}, batch")
    checked = _date(entry, "checked", where)
    return Override(
        model=model.strip().lower(),
        provider=provider and provider.strip().lower(),
        starts=starts,
        source=Source(str(path), checked or starts, "checked" if checked else "valid from"),
        standard=standard,
        batch=None if batch is None else _rates(batch, _tiers(batch.get("tiers", []), where), where),
        usd_per_request=_money(entry["per_request"], "per_request", where) if "per_request" in entry else None,
    )


def _rates(entry: Mapping[str, Any], tiers: list[tuple[int, Mapping[str, Any]]], where: str) -> dict[str, Rate]:
    rates = {}
    for kind in Price.KINDS:
        if kind in entry:
            upper = tuple((above, _per_mtok(tier[kind], kind, where)) for above, tier in tiers if kind in tier)
            rates[kind] = Rate(_per_mtok(entry[kind], kind, where), upper)
    for above, tier in tiers:
        missing = [kind for kind in Price.KINDS if (kind in tier) != (kind in rates)]
        if missing:
            raise PriceError(f"{where}: the tier above {above} must state the same prices as the entry: {missing[0]}")
    return rates


def _tiers(tiers: Any, where: str) -> list[tuple[int, Mapping[str, Any]]]:
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise PriceError(f"{where}: tiers is {tiers!r}; write tiers = [{{ above = 200000, input = ... }}]")
    found = []
    for tier in tiers:
        _refuse_unknown(tier, {"above", *Price.KINDS}, f"{where}, tiers")
        above = tier.get("above")
        if type(above) is not int or above < 0:
            raise PriceError(f"{where}: above is {above!r}; a tier needs a whole number of input tokens")
        found.append((above, tier))
    return sorted(found, key=lambda pair: pair[0])


def _per_mtok(value: Any, key: str, where: str) -> Decimal:
    price = _money(value, key, where)
    if price > _MOST or 0 < price < _LEAST:
        raise PriceError(
            f"{where}: {key} is {price}; prices are USD per MILLION tokens, {_LEAST} to {_MOST:,} (or 0 for free)"
        )
    return price


def _money(value: Any, key: str, where: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PriceError(f"{where}: {key} is {value!r}; write a number, without quotes")
    price = Decimal(value)
    if not price.is_finite() or price < 0 or -int(price.as_tuple().exponent) > 12:
        raise PriceError(f"{where}: {key} is {price}; it must be 0 or more, with at most 12 decimal places")
    return price


def _date(entry: Mapping[str, Any], key: str, where: str) -> date | None:
    value = entry.get(key)
    if value is not None and type(value) is not date:
        raise PriceError(f"{where}: {key} is {value!r}; write a day without quotes: {key} = 2026-10-01")
    return value


def _refuse_unknown(table: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=2) or sorted(known)
            raise PriceError(f"{where}: unknown key {key!r}; nearest: {', '.join(near)}")

"""Prices from the data of the package genai-prices, offline.

The package matches names loosely (gemini-3.1-pro-previewww is accepted as gemini-3.1-pro-preview). Here a name must be
one the data states, or one of them followed by a version: a typo is an error, never somebody else's price.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from farthing.economics.prices import Price, Rate, Source
from farthing.errors import PriceError, UnknownModel

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, PriceVariant, Provider

__all__ = ["known_model", "package_price", "package_source"]

# The package tells no date of its own: the day each version we have looked at was uploaded to PyPI.
RELEASED = {"0.2.3": date(2026, 11, 10)}

_VERSION = r"(?:[-@:.](?:\d{3,4}|\d{6}|\d{8}|\d{4}-\d{2}-\d{2}|\d{2}-\d{2}|\d{2}-\d{4}|v\d+|latest|preview|exp))"
_SUFFIX = re.compile(rf"{_VERSION}*\Z")
_DATE_AT_END = re.compile(r"[-@]\d{8}\Z")
_COMPACT_DATE = re.compile(r"-(20\d\d)(\d\d)(\d\d)\Z")
_VENDOR_PREFIX = re.compile(r"\A(?:[a-z0-9_-]+[./])*\Z")


@cache
def _providers() -> "tuple[Provider, ...]":
    from genai_prices.data import providers

    return tuple(providers)


def _provider(name: str) -> "Provider":
    """The provider of that id. Raises PriceError with the nearest ids."""
    for provider in _providers():
        if provider.id == name.strip().lower():
            return provider
    ids = [provider.id for provider in _providers()]
    near = get_close_matches(name.lower(), ids, n=3) or ids
    raise PriceError(f"provider {name!r} is not known; nearest: {', '.join(near)}")


def _names(clause: Any) -> Iterator[str]:
    """The names a match clause states literally."""
    for alternatives in ("or_", "and_"):
        for inner in getattr(clause, alternatives, ()):
            yield from _names(inner)
    if hasattr(clause, "equals"):
        yield clause.equals


def _is_stated(clause: Any, name: str) -> bool:
    """Whether the clause means exactly this name, give or take a vendor's prefix and a version at the end."""
    if hasattr(clause, "or_"):
        return any(_is_stated(inner, name) for inner in clause.or_)
    if hasattr(clause, "and_"):  # a prefix, and regexes that only exclude
        return clause.is_match(name) and any(_is_stated(inner, name) for inner in clause.and_ if not _excludes(inner))
    if hasattr(clause, "equals"):
        return bool(clause.equals == name)
    if hasattr(clause, "regex"):
        return bool(clause.is_match(name))
    literal = getattr(clause, "starts_with", None) or getattr(clause, "contains", None) or clause.ends_with
    before, found, after = name.partition(literal)
    if not found or not clause.is_match(name) or not _VENDOR_PREFIX.match(before):
        return False
    if literal[-1] in "-@:":
        after = literal[-1] + after
    return bool(_SUFFIX.match(after)) or (literal[-1].isdigit() and after.isdigit() and bool(_DATE_AT_END.search(name)))


def _excludes(clause: Any) -> bool:
    return "(?!" in getattr(clause, "regex", "")


def _in_provider(provider: "Provider", name: str) -> "ModelInfo | None":
    """The provider's own entry for the name; else that of a provider whose models it resells at the same price."""
    for own in provider.models:
        if own.id.lower() == name:
            return own
    spellings = (name, _COMPACT_DATE.sub(r"-\1-\2-\3", name))
    others = [_provider(other) for other in provider.fallback_model_providers or ()]
    for place in (provider, *others):
        model = place.find_model(name)
        if model is not None and any(name == model.id or _is_stated(model.match, name) for name in spellings):
            return model
    return None


def _find(model: str, provider: str | None, other_names: tuple[str, ...] = ()) -> "tuple[Provider, ModelInfo]":
    """Look a name up: at the provider given, at the one the name belongs to, as provider/model, at the only seller."""
    name = model.strip().lower()
    if provider is not None:
        place = _provider(provider)
        found = _in_provider(place, name)
        if found is None:
            raise _unknown_model(model, (place,), other_names)
        return place, found
    for place in _providers():
        if place.model_match is not None and place.model_match.is_match(name):
            found = _in_provider(place, name)
            if found is not None:
                return place, found
            break
    seller, slash, rest = name.partition("/")
    if slash and any(place.id == seller for place in _providers()):
        place = _provider(seller)
        found = _in_provider(place, rest)
        if found is not None:
            return place, found
    sellers = [(place, found) for place in _providers() if (found := _in_provider(place, name)) is not None]
    if len(sellers) > 1:
        ids = ", ".join(place.id for place, _ in sellers)
        raise PriceError(f"{model!r} has several providers, each with a price; choose one with --provider: {ids}")
    if not sellers:
        raise _unknown_model(model, _providers(), other_names)
    return sellers[0]


def _unknown_model(model: str, providers: "tuple[Provider, ...]", other_names: tuple[str, ...]) -> UnknownModel:
    """The error for a name without a price, with the nearest names that have one."""
    names = {entry.id for provider in providers for entry in provider.models} | set(other_names)
    for provider in providers:
        for entry in provider.models:
            names.update(_names(entry.match))
    asked = model.strip().lower()
    longer = sorted((name for name in names if name.startswith(asked)), key=len)
    near = list(dict.fromkeys([*longer[:2], *get_close_matches(asked, names, n=4, cutoff=0.6)]))[:4]
    where = f" at {providers[0].id}" if len(providers) == 1 else ""
    none = "no known name is near (a model of your own is given by its path, a price of your own in a TOML file)"
    return UnknownModel(f"unknown model {model!r}{where}; {'nearest: ' + ', '.join(near) if near else none}")


def known_model(model: str, other_names: tuple[str, ...] = ()) -> str:
    """The name in lower case if some provider's price list has it. Raises UnknownModel with the nearest names."""
    name = model.strip().lower()
    if not any(_in_provider(provider, name) for provider in _providers()):
        _find(model, None, other_names)
    return name


def package_source(on: date) -> Source:
    """The package as a source, dated by its release where we know it, else by the newest price in its data."""
    installed = version("genai-prices")
    if installed in RELEASED:
        return Source(f"genai-prices {installed}", RELEASED[installed], "released")
    starts = (
        getattr(entry.constraint, "start_date", date.min)
        for provider in _providers()
        for model in provider.models
        if isinstance(model.prices, list)
        for entry in model.prices
    )
    newest = max((start for start in starts if start <= on), default=date.min)
    return Source(f"genai-prices {installed}", newest, "release date not known, its newest price is of")


def package_price(
    model: str, at: datetime, provider: str | None, batch: bool, other_names: tuple[str, ...] = ()
) -> Price:
    """The package's price for a model at a moment (naive means UTC); `other_names` may be proposed in an error.

    Raises UnknownModel (nearest names), PriceError for an unknown provider, a price not in tokens, or a batch price
    that is not in the data (the package itself would silently give the full price).
    """
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    place, info = _find(model, provider, other_names)
    if isinstance(info.prices, list) and not any(_is_active(entry, at) for entry in info.prices):
        raise PriceError(f"no price is known for {model!r} at {at:%Y-%m-%d}")
    prices = info.get_prices(at)
    if batch:
        prices = _batch_prices(place, info, at)
    rates = {kind: _rate(getattr(prices, f"{kind}_mtok")) for kind in Price.KINDS}
    if rates["input"] is None and rates["output"] is None:
        raise PriceError(f"{info.id!r} ({place.id}) is not priced in tokens: {prices}")
    per_1000_requests = prices.requests_kcount
    return Price(
        model=info.id,
        provider=place.id,
        source=package_source(at.date()),
        batch=batch,
        usd_per_request=per_1000_requests / 1000 if isinstance(per_1000_requests, Decimal) else None,
        **rates,
    )


def _is_active(entry: "ConditionalPrice | PriceVariant", at: datetime) -> bool:
    return entry.constraint is None or entry.constraint.active(at)


def _batch_prices(place: "Provider", info: "ModelInfo", at: datetime) -> "ModelPrice":
    context = {"processing": "batch"}
    variants = [variant for variant in info.price_variants or () if variant.when == context]
    # A reseller's price list says nothing about the maker's batch service.
    if not variants or not any(info is own for own in place.models):
        raise PriceError(f"no batch price is known for {info.id!r} ({place.id}); the standard price has no --batch")
    if not any(_is_active(variant, at) for variant in variants):
        starts = ", ".join(str(getattr(variant.constraint, "start_date", "")) for variant in variants)
        raise PriceError(f"the batch price of {info.id!r} ({place.id}) is known from {starts} on, not at {at:%Y-%m-%d}")
    return info.get_prices(at, context)


def _rate(value: Any) -> Rate | None:
    if value is None:
        return None
    if hasattr(value, "tiers"):
        return Rate(value.base, tuple((tier.start, tier.price) for tier in value.tiers))
    return Rate(value)

"""Makes what the configuration names: upstreams by their kind, and the models they serve."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature

from farthing.economics.cost import HostCost
from farthing.errors import FarthingError, InvalidRequest
from farthing.ledger import Books
from farthing.ledger.metered import Metered
from farthing.router.config import RouterConfig
from farthing.server.catalog import Served
from farthing.server.config import ModelEntry, UpstreamEntry
from farthing.upstreams import Upstream, UpstreamError
from farthing.upstreams.fallback import Fallback

__all__ = ["Built", "all_served", "make_upstream", "metered", "start_upstream"]

PACKAGE = "farthing.upstreams."
log = logging.getLogger("farthing.server")


@dataclass(frozen=True, slots=True)
class Built:
    leaf: Upstream
    metered: Metered


def make_upstream(entry: UpstreamEntry, host: HostCost, source: str) -> Upstream:
    """kind is a module of farthing.upstreams, or the dotted path of another, that has from_config(name, options) or a
    class that does; a third argument, where it takes one, is the HostCost. Raises InvalidRequest, naming the file."""
    where = f"{source}: [[upstream]] {entry.name!r}"
    path = entry.kind if "." in entry.kind else PACKAGE + entry.kind
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise InvalidRequest(
            f"{where}: kind {entry.kind!r} cannot be imported ({error}); allowed: local, classifier, openai, anthropic,"
            f" echo, or the dotted path of a module"
        ) from None
    names: Sequence[str] = getattr(module, "__all__", ())
    for kind in (module, *(getattr(module, name) for name in names)):
        if hasattr(kind, "from_config"):
            try:
                arguments = (entry.name, entry.options, host)[: len(signature(kind.from_config).parameters)]
                upstream: Upstream = kind.from_config(*arguments)
            except FarthingError as error:
                raise InvalidRequest(f"{where}: {error}") from None
            return upstream
    raise InvalidRequest(f"{where}: kind {entry.kind!r} has nothing with from_config, so it is no upstream")


async def start_upstream(upstream: Upstream) -> None:
    """Where an upstream has something to load, it is loaded now."""
    start = getattr(upstream, "start", None)
    if start is not None:
        await start()


def metered(books: Books, upstream: Upstream, kind: str) -> Built:
    """How it is priced is its own word, where it has one: an echo is local without being of that kind."""
    is_local = bool(getattr(upstream, "is_local", kind == "local"))
    provider = str(getattr(upstream, "provider", "local" if is_local else ""))
    return Built(upstream, books.metered(upstream, provider=provider, is_local=is_local))


async def all_served(models: Sequence[ModelEntry], upstreams: Mapping[str, Built], source: str) -> list[Served]:
    """What clients may ask for: the [[model]]s; without any, what every upstream says it has, under its own name and as
    "upstream/model"."""
    if models:
        return [_served(model, upstreams, source) for model in models]
    found: list[Served] = []
    for name, built in upstreams.items():
        try:
            theirs = await built.leaf.models()
        except UpstreamError as error:
            log.warning("upstream %s does not say which models it has (%s); name them under [[model]]", name, error)
            continue
        found += [Served(model, built.metered, built.leaf, model, name) for model in theirs]
        if len(upstreams) > 1:
            found += [Served(f"{name}/{model}", built.metered, built.leaf, model, name) for model in theirs]
    return found


def _served(model: ModelEntry, upstreams: Mapping[str, Built], source: str) -> Served:
    first = model.upstreams[0]
    built = upstreams[first.upstream]
    upstream: Upstream = built.metered
    if model.router is not None:
        upstream = _router(model, model.router, upstreams, source)
    elif len(model.upstreams) > 1:
        members = [(upstreams[route.upstream].metered, route.model) for route in model.upstreams]
        upstream = Fallback(model.name, members)
    return Served(model.name, upstream, built.leaf, first.model, first.upstream, model.public)


def _router(model: ModelEntry, config: RouterConfig, upstreams: Mapping[str, Built], source: str) -> Upstream:
    from farthing.router.router import RoutedMember, Router  # NumPy, which a server without a router need not load

    members = []
    for route in model.upstreams:
        metered = upstreams[route.upstream].metered
        members.append(RoutedMember(metered, route.model, partial(metered.price, route.model), metered.is_local))
    try:
        return Router(model.name, members, config)
    except FarthingError as error:
        raise InvalidRequest(f"{source}: [[model]] {model.name!r}: {error}") from None

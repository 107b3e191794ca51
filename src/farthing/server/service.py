"""Everything a running server has, opened in order and closed in reverse."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.price_file import default_path
from farthing.economics.prices import PriceBook
from farthing.errors import InvalidRequest
from farthing.ledger import Books, LedgerConfig, open_reader
from farthing.server.building import all_served, make_upstream, metered, start_upstream
from farthing.server.catalog import Catalog
from farthing.server.config import EconomicsConfig, ServerConfig, UpstreamEntry, is_loopback
from farthing.server.config_file import Config
from farthing.server.keeping import KeepingUpstream
from farthing.server.limits import Gate
from farthing.server.metrics import Metrics
from farthing.server.otel import Spans
from farthing.server.response_cache import ResponseCache
from farthing.server.response_store import ResponseCacheConfig
from farthing.server.tables import read_table
from farthing.upstreams import Upstream

__all__ = ["Service", "open_service"]

log = logging.getLogger("farthing.server")


@dataclass(frozen=True)
class Service:
    config: ServerConfig
    books: Books
    catalog: Catalog
    gate: Gate
    metrics: Metrics
    spans: Spans
    started_s: int = 0  # since 1970
    has_cache: bool = False  # the response cache is on


@asynccontextmanager
async def open_service(config: Config) -> AsyncIterator[Service]:
    """Raises FarthingError where something cannot be opened, or must not be reached from where it would be."""
    ledger = config.ledger_config()
    host = HostCost(config.economics.usd_per_hour, config.economics.utilisation)
    async with AsyncExitStack() as stack:
        books = await Books.open(ledger, Pricer(_prices(config.economics), host, config.economics.baseline))
        stack.push_async_callback(books.aclose)
        _check_reach(config.server, ledger)
        upstreams, engines, serving = {}, [], []
        for entry in config.upstreams or (UpstreamEntry("local", "local"),):
            leaf = make_upstream(entry, host, config.source)
            stack.push_async_callback(leaf.aclose)
            await start_upstream(leaf)
            if hasattr(leaf, "engine_figures"):
                engines.append(leaf.engine_figures)
            if hasattr(leaf, "serving"):
                serving.append(leaf.serving)
            upstreams[entry.name] = metered(books, leaf, entry.kind)
        served = await all_served(config.models, upstreams, config.source)
        routers = {e.name: e.upstream.router_stats for e in served if hasattr(e.upstream, "router_stats")}
        cache = _response_cache(config, books)
        if cache is not None:
            stack.push_async_callback(cache.aclose)
            served = [replace(entry, upstream=cache.wrap(entry.upstream)) for entry in served]
        if config.server.stored_prompts:
            served = [replace(entry, upstream=_keeping(entry.upstream, config.server, books)) for entry in served]
        metrics = Metrics(engines, books.stats, None if cache is None else cache.stats, routers, serving)
        catalog, gate, started_s = Catalog(served), Gate(config.server), int(time.time())
        yield Service(config.server, books, catalog, gate, metrics, Spans(), started_s, cache is not None)


def _keeping(upstream: Upstream, config: ServerConfig, books: Books) -> KeepingUpstream:
    return KeepingUpstream(upstream, books, config.stored_prompts_max_chars, config.stored_prompts_max_rows)


def _response_cache(config: Config, books: Books) -> ResponseCache | None:
    """None where the configuration does not switch it on."""
    settings = read_table(ResponseCacheConfig, dict(config.response_cache), f"{config.source}: [response_cache]")
    return ResponseCache(settings, books) if settings.enabled else None


def _prices(config: EconomicsConfig) -> PriceBook:
    """The file that the configuration names, or the user's own where it is, before the package's."""
    path = config.prices or (default_path() if default_path().exists() else None)
    return PriceBook() if path is None else PriceBook.load(path)


def _check_reach(config: ServerConfig, ledger: LedgerConfig) -> None:
    """Others than this machine may ask only with a key."""
    if is_loopback(config.host):
        return
    if not config.require_keys:
        raise InvalidRequest(
            f"host {config.host} can be reached by others, and require_keys is off, so anybody could ask; make a key"
            f" (farthing keys create --name NAME) and set require_keys = true under [server] of the file that --config"
            f" names"
        )
    with open_reader(ledger.url) as reader:
        keys = reader.keys()
    now_us = time.time_ns() // 1000
    if all(key.is_revoked or (key.expires_us is not None and key.expires_us <= now_us) for key in keys):
        raise InvalidRequest(
            f"host {config.host} can be reached by others and there is no active key; make one first:"
            f" farthing keys create --name NAME"
        )

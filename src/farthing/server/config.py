"""What a server is told in farthing.toml: one frozen dataclass for each table, every default here and nowhere else."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.router.config import RouterConfig

__all__ = ["EconomicsConfig", "ModelEntry", "RouteEntry", "ServerConfig", "UpstreamEntry", "is_loopback"]

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s*A-Z]+")  # as browsers write it: small letters, no path


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address. A name other than localhost may be anything."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True)
class ServerConfig:
    """[server]. Raises InvalidRequest for a value outside its range."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    require_keys: bool = False  # off: a request without a key of ours is answered, as nobody's
    allowed_hosts: tuple[str, ...] = ()  # names in the Host header, besides localhost
    allowed_origins: tuple[str, ...] = ()  # whose pages may call this server: "https://chat.example"; "*" with keys
    public_system_messages: tuple[str, ...] = ()  # exact texts; their cached prefix is shared by all keys
    is_metrics_public: bool = False  # /metrics without a key, where keys are required
    max_concurrent: int = 1024  # answers under way; more get 503
    max_body_bytes: int = 16 << 20
    max_buffered_bytes: int = 256 << 20  # bodies of all requests under way
    max_header_bytes: int = 32 << 10
    max_headers: int = 100
    head_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    request_timeout_s: float = 600.0
    keep_alive_s: float = 75.0
    drain_s: float = 30.0  # after SIGTERM
    stream_interval_s: float = 0.02  # pieces that follow sooner are sent as one event; 0 sends each alone
    is_access_logged: bool = False
    stored_prompts: bool = False  # prompts and answers go into the ledger, for farthing route train --from-ledger
    stored_prompts_max_chars: int = 16_384  # of a prompt, and of an answer; longer ones are not stored
    stored_prompts_max_rows: int = 10_000  # the newest

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise InvalidRequest(f"{name} is {getattr(self, name)!r}; allowed: {allowed}")

        need(bool(self.host), "host", "an address or a name")
        need(0 <= self.port <= 65535, "port", "0 (any free one) to 65535")
        need(self.max_concurrent >= 1, "max_concurrent", "1 or more")
        need(1 <= self.max_body_bytes <= 1 << 30, "max_body_bytes", "1 to 1 GiB")
        need(self.max_buffered_bytes >= self.max_body_bytes, "max_buffered_bytes", "max_body_bytes or more")
        need(1024 <= self.max_header_bytes <= 1 << 20, "max_header_bytes", "1024 to 1 MiB")
        need(10 <= self.max_headers <= 10_000, "max_headers", "10 to 10,000")
        for name in ("head_timeout_s", "body_timeout_s", "request_timeout_s", "keep_alive_s"):
            need(0 < getattr(self, name) <= 86_400, name, "above 0, at most 86,400 (a day)")
        for origin in self.allowed_origins:
            is_origin = ORIGIN.fullmatch(origin) is not None or (origin == "*" and self.require_keys)
            need(is_origin, "allowed_origins", 'origins like "https://chat.example"; "*" only with require_keys = true')
        need(0 <= self.drain_s <= 86_400, "drain_s", "0 to 86,400 (a day)")
        need(1 <= self.stored_prompts_max_chars <= 1 << 20, "stored_prompts_max_chars", "1 to 1,048,576")
        need(1 <= self.stored_prompts_max_rows <= 10_000_000, "stored_prompts_max_rows", "1 to 10,000,000")
        need(0 <= self.stream_interval_s <= 10, "stream_interval_s", "0 (off) to 10")


@dataclass(frozen=True)
class EconomicsConfig:
    """[economics]: what this machine costs, and what its tokens are compared with."""

    usd_per_hour: Decimal = HostCost.usd_per_hour
    utilisation: Decimal = HostCost.utilisation
    baseline: str | None = None  # a model's name; none: the hosted model itself, for local ones DEFAULT_BASELINE
    prices: Path | None = None  # a file of own prices

    def __post_init__(self) -> None:
        HostCost(self.usd_per_hour, self.utilisation)


@dataclass(frozen=True)
class UpstreamEntry:
    """One [[upstream]]. options are for its kind, which checks them."""

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RouteEntry:
    upstream: str
    model: str


@dataclass(frozen=True)
class ModelEntry:
    """One [[model]]: the name that clients ask for, and who serves it, in order of fallback."""

    name: str
    upstreams: tuple[RouteEntry, ...]
    public: bool = True  # off: only for keys that name it
    router: RouterConfig | None = None  # the upstreams are in order of cost then, and the cheapest that will do answers

    def __post_init__(self) -> None:
        if not self.name or not self.upstreams:
            raise InvalidRequest("a [[model]] needs a name and at least one of upstreams")
        if self.router is not None and len(self.upstreams) < 2:
            raise InvalidRequest(f"[[model]] {self.name!r}: a router needs two upstreams or more, in order of cost")

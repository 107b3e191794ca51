"""farthing.toml, read once at start-up. docs/server.md is its reference."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from farthing.errors import InvalidRequest
from farthing.ledger.config import LedgerConfig
from farthing.server.config import EconomicsConfig, ModelEntry, ServerConfig, UpstreamEntry
from farthing.server.tables import check_keys, read_table

__all__ = ["Config", "read_config"]

TABLES = ["server", "economics", "ledger", "response_cache", "learn", "upstream", "model"]


@dataclass(frozen=True)
class Config:
    """The whole file. ledger, response_cache and learn stay tables here: those packages' dataclasses read them."""

    server: ServerConfig = field(default_factory=ServerConfig)
    economics: EconomicsConfig = field(default_factory=EconomicsConfig)
    upstreams: tuple[UpstreamEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()
    ledger: Mapping[str, Any] = field(default_factory=dict)
    response_cache: Mapping[str, Any] = field(default_factory=dict)
    learn: Mapping[str, Any] = field(default_factory=dict)  # of `farthing learn`; a server does not look at it
    folder: Path = Path()  # that its paths are relative to
    source: str = "farthing.toml"

    def ledger_config(self) -> LedgerConfig:
        """Raises InvalidRequest, naming the file and the key."""
        found = read_table(LedgerConfig, dict(self.ledger), f"{self.source}: [ledger]", self.folder)
        return found.below(self.folder)


def read_config(path: Path) -> Config:
    """Raises InvalidRequest, naming the file and the key, for what cannot be read or understood."""
    source = str(path)
    document = _read_toml(path)
    check_keys(document, TABLES, source)
    folder = path.resolve().parent
    server = read_table(ServerConfig, document.get("server", {}), f"{source}: [server]", folder)
    economics = read_table(EconomicsConfig, document.get("economics", {}), f"{source}: [economics]", folder)
    upstreams = tuple(
        _upstream(table, f"{source}: [[upstream]] {i}") for i, table in _numbered(document, "upstream", source)
    )
    models = tuple(
        read_table(ModelEntry, table, f"{source}: [[model]] {i}", folder)
        for i, table in _numbered(document, "model", source)
    )
    _check_names(upstreams, models, source)
    for name in ("ledger", "response_cache", "learn"):
        if not isinstance(document.get(name, {}), dict):
            raise InvalidRequest(f"{source}: {name} is {document[name]!r}; allowed: a table, [{name}]")
    return Config(
        server,
        economics,
        upstreams,
        models,
        document.get("ledger", {}),
        document.get("response_cache", {}),
        document.get("learn", {}),
        folder,
        source,
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode(), parse_float=Decimal)
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror}); give a file with --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: not TOML: {error}") from None


def _numbered(document: dict[str, Any], name: str, source: str) -> list[tuple[int, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list):
        raise InvalidRequest(f"{source}: {name} is one table; allowed: a list of them, each under [[{name}]]")
    return list(enumerate(tables, 1))


def _upstream(table: Any, where: str) -> UpstreamEntry:
    if not isinstance(table, dict):
        raise InvalidRequest(f"{where} is {table!r}; allowed: a table")
    for key in ("name", "kind"):
        if not isinstance(table.get(key), str) or not table[key]:
            raise InvalidRequest(f"{where}: {key} is {table.get(key)!r}; allowed: a text, not empty")
    options = {key: _plain(value) for key, value in table.items() if key not in ("name", "kind")}
    return UpstreamEntry(table["name"], table["kind"], options)


def _check_names(upstreams: tuple[UpstreamEntry, ...], models: tuple[ModelEntry, ...], source: str) -> None:
    names = [upstream.name for upstream in upstreams]
    for kind, given in (("upstream", names), ("model", [model.name for model in models])):
        twice = [name for name in given if given.count(name) > 1]
        if twice:
            raise InvalidRequest(f"{source}: [[{kind}]] name {twice[0]!r} is there twice; names are unique")
    for model in models:
        for route in model.upstreams:
            if route.upstream not in names:
                known = ", ".join(names) or "none; write an [[upstream]]"
                raise InvalidRequest(
                    f"{source}: [[model]] {model.name!r}: no upstream {route.upstream!r}; there is: {known}"
                )


def _plain(value: Any) -> Any:
    """Decimal is for money; what upstreams are told are plain numbers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value

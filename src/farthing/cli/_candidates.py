"""What --models names: models of a configuration's upstreams, and models of this machine.

upstream/model       a model of an [[upstream]] of --config
name                 a [[model]] of --config, or a model that just one [[upstream]] lists
name@q8_0            else a local model (a pulled name, a GGUF file, a folder), its weights re-blocked
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from farthing.errors import FarthingError, InvalidRequest

if TYPE_CHECKING:
    from farthing.economics.cost import HostCost
    from farthing.ledger import Books
    from farthing.report.compare_run import Candidate
    from farthing.server.config import UpstreamEntry
    from farthing.server.config_file import Config
    from farthing.upstreams import Upstream

__all__ = ["Candidates"]

FORMATS = ("f32", "q8_0", "q4_0", "q4_1")


class Candidates:
    """books: where each attempt becomes a row of the ledger. Raises InvalidRequest for names that mean nothing."""

    def __init__(
        self, config: "Config", host: "HostCost", books: "Books | None", weights: str | None, threads: int | None
    ) -> None:
        self._config, self._host, self._books = config, host, books
        self._weights, self._threads = weights, threads

    def find(self, name: str) -> "Candidate":
        from farthing.report.compare_run import Candidate

        found = self._configured(name)
        if found is None:
            entry, model = self._local(name)
        else:
            entry, model = found

        @asynccontextmanager
        async def opened() -> "AsyncIterator[Upstream]":
            async with self._opened(entry) as upstream:
                yield upstream

        return Candidate(name, model, entry.kind in ("local", "classifier"), opened)

    def _configured(self, name: str) -> "tuple[UpstreamEntry, str] | None":
        """(upstream, model). Of a [[model]] with fallbacks the first: what is compared is one model."""
        entries = {entry.name: entry for entry in self._config.upstreams}
        for model in self._config.models:
            if model.name == name:
                return entries[model.upstreams[0].upstream], model.upstreams[0].model
        upstream, slash, rest = name.partition("/")
        if slash and rest and upstream in entries:
            return entries[upstream], rest
        listed = [entry for entry in entries.values() if name in _listed(entry)]
        if len(listed) > 1:
            names = ", ".join(f"{entry.name}/{name}" for entry in listed)
            raise InvalidRequest(f"--models {name}: several upstreams have it; write one of {names}")
        return (listed[0], name) if listed else None

    def _local(self, name: str) -> "tuple[UpstreamEntry, str]":
        from farthing.models.hub import find_model, is_cascade
        from farthing.models.opening import open_checkpoint
        from farthing.server.config import UpstreamEntry
        from farthing.upstreams.classifier_config import served_as
        from farthing.upstreams.local_model import served_name

        source, at, weights = name.rpartition("@")
        is_variant = bool(at) and weights in FORMATS
        if not is_variant:
            source, weights = name, self._weights or ""
            if at and not name.startswith("hf:") and not os.path.exists(os.path.expanduser(name)):
                raise InvalidRequest(f"--models {name}: {name.rpartition('@')[2]!r} is no format of weights; "
                                     f"allowed after @: {', '.join(FORMATS)}")  # fmt: skip
        try:
            path = find_model(source)
            kind = "classifier" if is_cascade(path) or open_checkpoint(path).config.labels else "local"
        except FarthingError as error:
            there = ", ".join(f"{entry.name}/MODEL" for entry in self._config.upstreams)
            hint = f"; of {self._config.source} there are {there}" if there else ""
            raise InvalidRequest(f"--models {name}: {error}{hint}") from None
        options: dict[str, object] = {"models": [source]}
        if kind == "local":
            options["speculation"] = "off"
        if weights:
            options["weights"] = weights
        if self._threads is not None:
            options["threads"] = self._threads
        return UpstreamEntry("local", kind, options), served_name(source) if kind == "local" else served_as(source)

    @asynccontextmanager
    async def _opened(self, entry: "UpstreamEntry") -> "AsyncIterator[Upstream]":
        from farthing.server.building import make_upstream, metered, start_upstream

        leaf = make_upstream(entry, self._host, self._config.source)
        try:
            await start_upstream(leaf)
            yield leaf if self._books is None else metered(self._books, leaf, entry.kind).metered
        finally:
            await leaf.aclose()


def _listed(entry: "UpstreamEntry") -> list[str]:
    """The models that an upstream's table names; it is not asked."""
    names = entry.options.get("models")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

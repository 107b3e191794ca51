"""Which models there are, by which names, and who answers for each."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from farthing.upstreams import Upstream, UpstreamError

__all__ = ["Catalog", "Holder", "Served"]


class Holder(Protocol):
    """What a key says about models; none is no restriction."""

    @property
    def models(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A name clients may ask for. upstream is metered, and has its fallbacks in it; model is the name it takes. leaf is
    what answers first, without its meter: for what nobody pays."""

    name: str
    upstream: Upstream
    leaf: Upstream
    model: str
    owner: str  # the upstream's name, the first one's where there are several
    is_public: bool = True


class Catalog:
    def __init__(self, served: Iterable[Served]) -> None:
        self._served: dict[str, Served] = {}
        for entry in served:
            self._served.setdefault(entry.name, entry)

    def find(self, name: str, key: Holder | None) -> Served:
        """Raises UpstreamError: 404 with the nearest names for a model that is not there, or not for this key."""
        entry = self._served.get(name)
        if entry is not None and _may_use(entry, key):
            return entry
        names = [entry.name for entry in self.visible(key)]
        near = get_close_matches(name, names, 3, 0.5)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"there is: {', '.join(names[:20]) or 'none'}"
        )
        shown = name if len(name) <= 100 else name[:97] + "…"
        message = f"the model {shown!r} does not exist or is not for your key; {hint}"
        raise UpstreamError(message, status=404, code="model_not_found", param="model")

    def visible(self, key: Holder | None) -> list[Served]:
        """What a key may use, in the order of the configuration."""
        return [entry for entry in self._served.values() if _may_use(entry, key)]


def _may_use(entry: Served, key: Holder | None) -> bool:
    """A key without a list may use what is public; one with a list what it names."""
    if key is not None and key.models:
        return entry.name in key.models
    return entry.is_public

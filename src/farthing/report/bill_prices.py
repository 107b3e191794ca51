"""Which prices the rows were charged at, and which of those were old by then."""

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

from farthing.economics.prices import Source
from farthing.ledger.row import Row
from farthing.report.bill_period import day_of

__all__ = ["Stale", "StalePrices"]

# As Source.text writes it, before the model's name, which may have a date of its own.
_DATED = re.compile(r"(.*?), (released|checked|valid from|[a-z ,]*is of) (\d{4}-\d\d-\d\d)(?:, |\Z)")
MAX_VERSIONS = 1000


@dataclass(slots=True)
class Stale:
    """A price that was more than 90 days old when rows were charged at it."""

    version: str
    num_rows: int
    cost_pico: int
    warning: str  # as of the last such row


class StalePrices:
    def __init__(self) -> None:
        self.by_version: dict[str, Stale] = {}

    def add(self, row: Row) -> None:
        warning = _warning(row.price_version, day_of(row.started_us))
        if warning is None or (row.price_version not in self.by_version and len(self.by_version) >= MAX_VERSIONS):
            return
        stale = self.by_version.setdefault(row.price_version, Stale(row.price_version, 0, 0, warning))
        stale.num_rows += 1
        stale.cost_pico += row.cost_pico or 0
        stale.warning = warning


@lru_cache(maxsize=4096)
def _warning(version: str, day: str) -> str | None:
    found = _DATED.match(version)
    if found is None:
        return None
    try:
        return Source(found[1], date.fromisoformat(found[3]), found[2]).warning(date.fromisoformat(day))
    except ValueError:
        return None

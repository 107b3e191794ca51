"""The bill of a period: one pass over the ledger's rows, in memory that does not grow with their number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from farthing.ledger.row import Row
from farthing.report.bill_forecast import Forecast, forecast
from farthing.report.bill_learned import Learned
from farthing.report.bill_levers import Levers
from farthing.report.bill_lot import MAX_ROUTERS, Lot, RouterSums
from farthing.report.bill_period import Period, day_of
from farthing.report.bill_prices import Stale, StalePrices
from farthing.report.bill_sketch import Sketch
from farthing.report.bill_sums import OTHER, Groups, Sums, is_failed

__all__ = ["DIMENSIONS", "NOBODY", "Bill", "collect", "spend_by_day"]

DIMENSIONS = (
    "model", "asked_model", "key", "project", "tag", "day", "upstream", "provider", "endpoint", "status", "route",
)  # fmt: skip
NOBODY = "(none)"
MAX_PAIRS = 50_000  # days times models
MAX_PENDING = 50_000  # requests whose first attempt failed and whose next has not been seen


@dataclass
class Bill:
    """levers and waterfall are over the rows that can be compared (Sums); `days` and `day_models` in pico-dollars."""

    period: Period
    total: Sums = field(default_factory=Sums)
    groups: dict[str, Groups] = field(default_factory=dict)
    day_models: dict[tuple[str, str], int] = field(default_factory=dict)
    request_cost: Sketch = field(default_factory=Sketch)  # pico-dollars, failed attempts included
    first_token: Sketch = field(default_factory=Sketch)  # microseconds
    levers: dict[str, int] = field(default_factory=dict)
    stale: list[Stale] = field(default_factory=list)
    forecast: Forecast | str = ""
    key_names: Mapping[str, str] = field(default_factory=dict)  # by key id
    routers: dict[str, RouterSums] = field(default_factory=dict)  # by the name that was asked for
    lots: Sequence[Lot] = ()  # beside the routers, where routes are shown
    learned: Learned | None = None  # the model that farthing learn teaches

    def label(self, dimension: str, name: str) -> str:
        """A group's name for people: a key's own name before its id."""
        known = self.key_names.get(name) if dimension == "key" else None
        return f"{known} ({name})" if known else name

    @property
    def days(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (day, _), amount in self.day_models.items():
            found[day] = found.get(day, 0) + amount
        return found


def spend_by_day(rows: Iterable[Row]) -> dict[str, int]:
    """Pico-dollars by UTC day, of rows whose cost is known."""
    days: dict[str, int] = {}
    for row in rows:
        day = day_of(row.started_us)
        days[day] = days.get(day, 0) + (row.cost_pico or 0)
    return days


def collect(
    rows: Iterable[Row],
    period: Period,
    dimensions: Sequence[str] = (),
    history: Iterable[Row] = (),
    learned: Learned | None = None,
) -> Bill:
    """The bill of `rows`; `history` are rows from before the period, which only the forecast learns from."""
    bill = Bill(period, groups={name: Groups() for name in ("model", "key", *dimensions)}, learned=learned)
    levers, stale = Levers(), StalePrices()
    pending: dict[str, int] = {}
    for row in rows:
        bill.total.add(row)
        levers.add(row)
        stale.add(row)
        if learned is not None:
            learned.add(row)
        for dimension, groups in bill.groups.items():
            for name in _names(row, dimension):
                groups.add(name, row)
        if row.route is not None and (row.asked_model in bill.routers or len(bill.routers) < MAX_ROUTERS):
            bill.routers.setdefault(row.asked_model, RouterSums()).add(row)
        _add_day(bill.day_models, row)
        _add_percentiles(bill, row, pending)
    bill.levers = levers.pico
    assert sum(bill.levers.values()) == bill.total.saving_pico
    bill.stale = sorted(stale.by_version.values(), key=lambda found: -found.cost_pico)
    bill.forecast = forecast(_together(spend_by_day(history), bill.days), period)
    return bill


def _together(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {day: first.get(day, 0) + second.get(day, 0) for day in {*first, *second}}


def _names(row: Row, dimension: str) -> Sequence[str]:
    """The groups a row belongs to: one, or one per tag."""
    if dimension == "tag":
        return tuple(dict.fromkeys(row.tags)) or (NOBODY,)
    if dimension == "day":
        return (day_of(row.started_us),)
    if dimension == "route":
        return (NOBODY if row.route is None else f"{row.route.partition(':')[0]} → {row.served_model}",)
    name = getattr(row, {"model": "served_model", "key": "key_id"}.get(dimension, dimension))
    return (name or NOBODY,)


def _add_day(day_models: dict[tuple[str, str], int], row: Row) -> None:
    pair = (day_of(row.started_us), row.served_model or NOBODY)
    if pair not in day_models and len(day_models) >= MAX_PAIRS:
        pair = (pair[0], OTHER)
    day_models[pair] = day_models.get(pair, 0) + (row.cost_pico or 0)


def _add_percentiles(bill: Bill, row: Row, pending: dict[str, int]) -> None:
    """A request's cost is its answer's and that of the attempts that failed before it."""
    if row.first_token_us is not None and not is_failed(row):
        bill.first_token.add(row.first_token_us)
    if row.cost_pico is None:
        return
    if is_failed(row):
        if len(pending) >= MAX_PENDING:
            pending.pop(next(iter(pending)))
        pending[row.request_id] = pending.get(row.request_id, 0) + row.cost_pico
    else:
        bill.request_cost.add(row.cost_pico + pending.pop(row.request_id, 0))

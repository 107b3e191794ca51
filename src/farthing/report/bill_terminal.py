"""The bill in the terminal: totals, levers, a table for each dimension, and what the figures leave out."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.report.bill import NOBODY, Bill
from farthing.report.bill_learned_shown import print_learned
from farthing.report.bill_routes import print_routes
from farthing.report.bill_sums import Sums
from farthing.report.bill_words import (
    LEVER_NAMES,
    exact,
    forecast_text,
    money,
    notes,
    percentiles,
    share,
    shown,
    signed,
)

__all__ = ["print_bill"]

WIDTH = 160  # lines are long rather than cut
MAX_LINES = 20
BAR_CELLS = 24


def print_bill(bill: Bill, dimensions: Sequence[str], budgets: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the whole bill; a dimension beyond its dearest 20 names says how many more there are."""
    console.width = max(console.width, WIDTH)
    total = bill.total
    unpriced = f", plus {total.num_unpriced:,} rows without a price" if total.num_unpriced else ""
    console.print(f"Bill for {bill.period.text}")
    console.print(f"Spent     {money(total.cost_pico)} (${exact(total.cost_pico)}){unpriced}")
    console.print(f"Baseline  {money(total.baseline_pico)} for the {money(total.compared_pico)} that can be compared")
    console.print(
        f"Saved     {money(total.saving_pico)} ({share(total.saving_pico, total.baseline_pico)} of the baseline)"
    )
    console.print(
        f"{total.num_requests:,} requests in {total.num_rows:,} attempts; cost per answered request "
        f"{percentiles(bill.request_cost, money)}; first token {percentiles(bill.first_token, _time)}"
    )
    console.print(f"Forecast  {forecast_text(bill.forecast)}")
    console.print()
    console.print(_classes(total))
    for dimension in dimensions:
        console.print()
        if dimension == "lever":
            console.print(_levers(bill))
        elif dimension == "route":
            print_routes(bill, console)
        else:
            _print_groups(bill, dimension, console)
    if bill.learned is not None and bill.learned.hours:
        console.print()
        print_learned(bill.learned, console)
    if budgets:
        console.print()
        console.print(_budgets(budgets))
    for note in notes(bill):
        console.print(f"Note: {note}")


def _classes(total: Sums) -> Table:
    plain = total.input_tokens - total.cache_read_tokens - total.cache_write_tokens
    table = _table("tokens", "number", "cost", "share")
    for name, num, pico in (
        ("input", plain, total.input_pico),
        ("input read from a cache", total.cache_read_tokens, total.cache_read_pico),
        ("input written to a cache", total.cache_write_tokens, total.cache_write_pico),
        ("output", total.output_tokens, total.output_pico),
        ("per request", None, total.request_pico),
    ):
        if num or pico:
            table.add_row(name, "" if num is None else f"{num:,}", money(pico), share(pico, total.cost_pico))
    return table


def _levers(bill: Bill) -> Table:
    total = bill.total
    most = max(1, total.baseline_pico, *(abs(pico) for pico in bill.levers.values()))
    table = _table("from baseline to cost", "", "amount")
    table.add_row("baseline", _bar(total.baseline_pico, most), money(total.baseline_pico))
    for name, pico in bill.levers.items():
        if pico:
            table.add_row(f"  {LEVER_NAMES[name]}", _bar(abs(pico), most), signed(-pico))
    table.add_row("cost", _bar(total.compared_pico, most), money(total.compared_pico))
    return table


def _print_groups(bill: Bill, dimension: str, console: Console) -> None:
    found = bill.groups[dimension].by_cost()
    if dimension == "day":
        found.sort(key=lambda pair: pair[0], reverse=True)
    if [name for name, _ in found] == [NOBODY]:
        console.print(f"by {dimension}: no row has one")
        return
    table = _table(
        f"by {dimension.replace('_', ' ')}", "cost", "baseline", "saved", "requests", "input", "cached", "output"
    )
    for name, sums in found[:MAX_LINES]:
        is_known = sums.num_unpriced < sums.num_rows
        cost = money(sums.cost_pico) if is_known else "not known"
        cost += f" +{sums.num_unpriced:,} unpriced" if sums.num_unpriced and is_known else ""
        cells = [
            shown(bill.label(dimension, name), 40),
            cost,
            money(sums.baseline_pico),
            money(sums.saving_pico),
            f"{sums.num_requests:,}",
        ]
        cells += [f"{sums.input_tokens:,}", share(sums.cache_read_tokens, sums.input_tokens), f"{sums.output_tokens:,}"]
        table.add_row(*cells)
    console.print(table)
    if len(found) > MAX_LINES:
        console.print(f"and {len(found) - MAX_LINES:,} more (all of them: --json)")
    if dimension == "tag":
        console.print("a row with several tags counts under each")


def _budgets(budgets: Sequence[Mapping[str, Any]]) -> Table:
    names = list(budgets[0])
    table = _table(*(name.replace("_", " ") for name in names))
    for budget in budgets:
        table.add_row(*(shown(str(budget.get(name))) for name in names))
    return table


def _bar(part: int, whole: int) -> str:
    return "█" * max(1 if part else 0, round(part * BAR_CELLS / whole))


def _time(time_us: int) -> str:
    return f"{time_us / 1e6:.2f} s" if time_us >= 1_000_000 else f"{time_us / 1000:.1f} ms"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    return table

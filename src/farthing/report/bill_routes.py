"""Routes in the terminal: what share of the answers each gave, what that cost and saved."""

from rich.console import Console
from rich.table import Table

from farthing.report.bill import NOBODY, Bill
from farthing.report.bill_sums import Sums
from farthing.report.bill_words import money, share, shown

__all__ = ["num_given", "print_routes"]

MAX_LINES = 20


def num_given(sums: Sums) -> int:
    """Attempts whose answer was given: not failed, not discarded by a cascade."""
    return sums.num_rows - sums.num_failed - sums.num_discarded


def print_routes(bill: Bill, console: Console) -> None:
    found = bill.groups["route"].by_cost()
    if [name for name, _ in found] == [NOBODY]:
        console.print("by route: no row has one")
        return
    total = sum(num_given(sums) for _, sums in found)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("by route → model", no_wrap=True)
    for name in ("answers", "share", "cost", "of that discarded or failed", "baseline", "saved"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, sums in found[:MAX_LINES]:
        given, lost = num_given(sums), sums.lost_pico
        cells = [shown(name, 60), f"{given:,}", share(given, total), money(sums.cost_pico), money(lost)]
        table.add_row(*cells, money(sums.baseline_pico), money(sums.saving_pico))
    console.print(table)
    if len(found) > MAX_LINES:
        console.print(f"and {len(found) - MAX_LINES:,} more (all of them: --json)")
    if any(name.startswith(("router", "cascade")) for name, _ in found):
        console.print(
            "a lot that draws the same shares costs about the same: what a router is worth is quality, which the bill"
            " does not know; `farthing route eval` shows both"
        )

"""Routes in the terminal: what share of the answers each gave, what that cost and saved; and a lot beside it."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from farthing.report.bill import NOBODY, Bill
from farthing.report.bill_lot import MIN_SCORES, Lot
from farthing.report.bill_sums import Sums
from farthing.report.bill_words import money, share, shown

__all__ = ["lot_lines", "num_given", "print_routes"]

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
    for line in lot_lines(bill.lots):
        console.print(line)


def lot_lines(lots: Sequence[Lot]) -> list[str]:
    """Of each router, what a lot would have done with as much money."""
    return [_line(lot) for lot in lots[:MAX_LINES]]


def _line(lot: Lot) -> str:
    dearest = shown(lot.models[-1].name, 40)
    mine = f"{shown(lot.router, 40)}: {lot.router_share:.1%} of {lot.num_answers:,} answers by {dearest}"
    if lot.share is None:
        return f"{mine}; what a lot could have had for as much is not known: prices are missing or equal"
    more = "always asking it would have cost less" if lot.share >= 1 else f"a lot for as much: {lot.share:.1%}"
    if lot.score is None or lot.lot_score is None:
        few = min(part.num_scores for part in lot.models)
        judged = f"{few:,} scores of one of its models, {MIN_SCORES} are needed" if few else "nobody has scored them"
        return f"{mine}; {more}; which was better is not known: {judged} (POST /v1/feedback)"
    return f"{mine}, mean score {lot.score:.3f}; {more}, about {lot.lot_score:.3f} (difference ± {lot.margin or 0:.3f})"

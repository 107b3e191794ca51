"""The waterfall in the terminal: two narrow tables, one of money with a bar per row, one of how it was measured."""

from collections.abc import Sequence
from decimal import Decimal

from rich.console import Console
from rich.table import Table

from farthing.economics.waterfall import Row
from farthing.report.distill_panel import print_distill
from farthing.report.document import Report, energy_usd_per_mtok, tok_s
from farthing.report.moe_panel import print_moe
from farthing.report.routing_panel import print_panel
from farthing.report.words import headline, hosted_sentence, mib, rate, times, usd

__all__ = ["bar", "print_report"]

BAR_CELLS = 24
WIDTH = 120
EIGHTHS = " ▏▎▍▌▋▊▉█"


def print_report(report: Report, console: Console) -> None:
    """Print the whole report; where there is no terminal, or a narrow one, its lines are long rather than cut."""
    console.width = max(console.width, WIDTH)
    console.print(f"Model {report.model}, workload {report.workload}: {report.num_requests} requests")
    console.print(f"Machine {report.machine}, {usd(report.host.usd_per_hour)} an hour ({report.host.source})")
    if report.is_partial:
        console.print(f"PARTIAL: interrupted. Not measured: {', '.join(report.missing)}")
    if report.rows:
        console.print()
        for table in (_money(report), _measured(report)):
            console.print(table)
            console.print()
        if any(result.sample for result in report.results):
            console.print("* run on a sample of the requests")
    if report.moe is not None:
        print_moe(report.moe, report.host, console)
        console.print()
    if report.distill is not None:
        print_distill(report.distill, report.host, console)
        console.print()
    if report.routing is not None:
        print_panel(report.routing, console)
        console.print()
    console.print(headline(report))
    for hosted in report.hosted:
        console.print(f"• {hosted_sentence(hosted)}")
    for note in report.notes:
        console.print(f"Note: {note}")


def bar(value: Decimal, full: Decimal) -> str:
    """A bar of eighths of a cell, `full` being all of it; longer ones are cut and end in »."""
    if value > full:
        return "█" * (BAR_CELLS - 1) + "»"
    eighths = max(1, round(value / full * BAR_CELLS * 8)) if value and full else 0
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _full(rows: Sequence[Row]) -> Decimal:
    """What a whole bar stands for: the largest row, but where the first dwarfs the rest, the largest of the rest."""
    levels = [row.usd_per_mtok.blended for row in rows]
    rest = max(levels[1:], default=levels[0])
    return rest if levels[0] > 4 * rest else max(levels)


def _money(report: Report) -> Table:
    full = _full(report.rows)
    table = _table("lever", f"$/Mtok, full: {usd(full)}", num_text=2)
    for name in ("blended", "input", "output", "×above", "×first"):
        table.add_column(name, justify="right", no_wrap=True)
    if report.host.watts is not None:
        table.add_column("energy", justify="right", no_wrap=True)
    for row, result in zip(report.rows, report.results, strict=True):
        price = row.usd_per_mtok
        cells = [row.lever + ("*" if result.sample else ""), bar(price.blended, full)]
        cells += [usd(price.blended), usd(price.input), usd(price.output)]
        cells += [times(row.factor_previous), times(row.factor_first)]
        energy = energy_usd_per_mtok(row, report.host)
        cells += [] if energy is None else [usd(energy)]
        table.add_row(*cells)
    return table


def _measured(report: Report) -> Table:
    table = _table("lever", num_text=1)
    for name in ("seconds", "in tok/s", "out tok/s", "peak MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("quality", no_wrap=True)
    for row, result in zip(report.rows, report.results, strict=True):
        table.add_row(
            row.lever + ("*" if result.sample else ""),
            f"{row.seconds:.1f}",
            rate(tok_s(row.input_tokens, row.input_s)),
            rate(tok_s(row.output_tokens, row.output_s)),
            mib(result.peak_bytes),
            str(result.quality),
        )
    return table


def _table(*names: str, num_text: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in names[:num_text]:
        table.add_column(name, no_wrap=True)
    return table

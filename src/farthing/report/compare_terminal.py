"""A comparison in the terminal: the models from cheap to dear, then each beside the best."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from farthing.report.compare import Comparison
from farthing.report.compare_words import HEAD, PAIRED_HEAD, cells, headline, paired_cells, remarks

__all__ = ["print_comparison"]

WIDTH = 140


def print_comparison(found: Comparison, console: Console) -> None:
    """Where there is no terminal, or a narrow one, its lines are long rather than cut."""
    console.width = max(console.width, WIDTH)
    console.print(f"{found.task}: {found.num_rows:,} rows" + (", PARTIAL: interrupted" if found.is_partial else ""))
    console.print()
    console.print(_table(HEAD, map(cells, found.models)))
    console.print("● nothing is both cheaper and more accurate")
    if found.verdict is not None and found.verdict.against:
        console.print()
        console.print(f"Best: {found.verdict.best}")
        console.print(_table(PAIRED_HEAD, map(paired_cells, found.verdict.against)))
    console.print()
    console.print(headline(found))
    for remark in remarks(found):
        console.print(f"Note: {remark}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(head):
        is_text = index == 0 or name == "verdict"
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table

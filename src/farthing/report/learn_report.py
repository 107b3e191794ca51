"""What a run of farthing learn ended in, for people and as JSON: dollars a request before and after, and quality."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.report.bill_words import exact, money, shown
from farthing.report.learn_history import Event, Figures

__all__ = ["event_json", "outcome_json", "print_history", "print_outcome", "quality_words"]

WIDTH = 160  # lines are long rather than cut
KINDS = {
    "promoted": "promoted: it serves from now on",
    "kept": "not promoted; its rows teach again in the next run",
    "refused": "refused: its rows are set aside and teach nothing",
    "rolled back": "rolled back",
}


def event_json(event: Event) -> dict[str, Any]:
    """Costs come twice: whole pico-dollars, and dollars as exact decimals."""
    found = asdict(event)
    for name in ("before", "after"):
        if found[name] is not None:
            found[name]["cost_usd"] = exact(found[name]["cost_pico"])
    return {**found, "reasons": list(event.reasons)}


def outcome_json(event: Event | None, paid_pico: int | None, share_up: float, told: Sequence[str]) -> dict[str, Any]:
    """paid_pico: of a request since the last run, as the ledger has it; share_up: answered by the large model."""
    return {
        "event": None if event is None else event_json(event),
        "paid_per_request_pico": paid_pico,
        "paid_per_request_usd": None if paid_pico is None else exact(paid_pico),
        "share_up": share_up,
        "notes": list(told),
    }


def print_outcome(
    event: Event | None, paid_pico: int | None, share_up: float, told: Sequence[str], console: Console
) -> None:
    console.width = max(console.width, WIDTH)
    if paid_pico is not None:
        console.print(
            f"Since the last run: {money(paid_pico)} a request, {share_up:.1%} of the answers by the large model"
        )
    if event is None:
        console.print("No run: there is too little new")
    else:
        console.print(f"Run {event.run} of {shown(event.model)}: {KINDS[event.kind]}")
        if event.before is not None and event.after is not None:
            console.print(_figures(event.before, event.after, event.num_judged))
        if event.difference is not None:
            console.print(f"Quality: {quality_words(event)}")
    for line in told:
        console.print(f"Note: {line}")


def print_history(events: Sequence[Event], console: Console) -> None:
    if not events:
        console.print("no run has ended yet")
        return
    console.width = max(console.width, WIDTH)
    table = _table("run", "ended (UTC)", "", "serves", "$ a request before", "after", "quality")
    for event in events:
        before, after = ("" if one is None else money(one.cost_pico) for one in (event.before, event.after))
        cells = [str(event.run), _time(event.at_us), event.kind, event.version or "none", before, after]
        table.add_row(*cells, quality_words(event) if event.difference is not None else "")
    console.print(table)
    last = events[-1]
    for reason in last.reasons:
        console.print(f"The last one: {reason}")


def quality_words(event: Event) -> str:
    """The difference in points, with its interval."""
    if event.difference is None or event.low is None or event.high is None:
        return "not compared"
    low, high = 100 * event.low, 100 * event.high
    return f"{100 * event.difference:+.1f} points ({low:+.1f} to {high:+.1f}, {event.num_judged:,} rows)"


def _figures(before: Figures, after: Figures, num_judged: int) -> Table:
    table = _table("", "$ a request", "answered as the large model would", "by the large model itself")
    for name, found in (("before", before), ("after", after)):
        table.add_row(name, money(found.cost_pico), f"{found.quality:.1%} of {num_judged:,}", f"{found.share_up:.1%}")
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _time(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M}"

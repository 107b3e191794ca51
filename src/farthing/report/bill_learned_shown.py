"""The cost of a learned model's request over time: terminal, page and JSON, promotions marked."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.report.bill_learned import HOUR_US, Learned, Part
from farthing.report.bill_words import exact, money, shown
from farthing.report.learn_history import Event
from farthing.report.learn_report import quality_words

__all__ = ["learned_html", "learned_json", "print_learned"]

HEAD = ("from (UTC)", "what began", "requests", "$ a request", "to the first", "quality beside the one before")
WIDTH_PX, LEFT_PX, PLOT_PX = 900, 80, 180
MAX_HOURLY = 96  # hours that are shown as such; of more, days are
MAX_BARS = 92


def print_learned(found: Learned, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=_title(found), title_justify="left")
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for row in _rows(found):
        table.add_row(*row)
    console.print(table)


def learned_html(found: Learned) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in HEAD)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(found))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f"<h2>{escape(_title(found))}</h2><figure>{_chart(found)}<figcaption>Mean cost of a request, drafts that were "
        "not given included; answers from the response cache are left out. The lines mark where another version began "
        f'to serve.</figcaption></figure><div class="scroll" tabindex="0" role="group" aria-label="table">{table}</div>'
    )


def _title(found: Learned) -> str:
    return f"Learned model {shown(found.model, 60)}: cost of a request over time"


def _rows(found: Learned) -> list[tuple[str, ...]]:
    first = next((part.request_pico for part in found.parts if part.request_pico), None)
    rows: list[tuple[str, ...]] = []
    for number, part in enumerate(found.parts):
        event = found.events[number - 1] if number else None
        if event is None and not part.num_requests:
            continue
        mean = part.request_pico
        change = "" if mean is None or not first else f"{mean / first:.1%}"
        rows.append(
            (
                "" if event is None else _moment(event.at_us),
                _began(found, number, event),
                f"{part.num_requests:,}",
                _cost(part),
                change,
                "" if event is None or event.difference is None else quality_words(event),
            )
        )
    return rows


def _cost(part: Part) -> str:
    unpriced = f" +{part.num_unpriced:,} unpriced" if part.num_unpriced else ""
    return "–" if part.request_pico is None else money(part.request_pico) + unpriced


def _began(found: Learned, number: int, event: Event | None) -> str:
    version = found.version(number)
    if event is None:
        return "the large model alone" if version is None else f"version {version}"
    return f"version {version}, {event.kind}"


def _chart(found: Learned) -> str:
    """Bars of days, or of hours where there are few; a line for each event."""
    names, parts, starts_us = _bars(found)
    most = max([part.request_pico or 0 for part in parts] + [1])
    step = (WIDTH_PX - LEFT_PX) / max(len(parts), 1)
    drawn = []
    for level in (0, 1, 2):
        y = PLOT_PX + 8 - level * PLOT_PX / 2
        drawn.append(f'<line x1="{LEFT_PX}" x2="{WIDTH_PX}" y1="{y:.1f}" y2="{y:.1f}"></line>')
        text = money(most * level // 2)
        drawn.append(f'<text class="tick" x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        x, high = LEFT_PX + number * step, (part.request_pico or 0) / most * PLOT_PX
        if part.request_pico is not None:
            told = f"{name}: {money(part.request_pico)} a request, {part.num_requests:,} requests"
            drawn.append(
                f'<rect class="total" x="{x + step * 0.12:.2f}" y="{PLOT_PX + 8 - high:.2f}" '
                f'width="{step * 0.76:.2f}" height="{high:.2f}"><title>{escape(told)}</title></rect>'
            )
        if number % max(1, -(-len(names) // 10)) == 0:
            drawn.append(f'<text class="tick" x="{x:.2f}" y="{PLOT_PX + 28}">{escape(name[5:])}</text>')
    drawn += [_mark(event, _place(event, starts_us, step)) for event in found.events]
    described = "; ".join(f"{row[1]}: {row[3]} a request" for row in _rows(found))
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="cost of a request over time">'
        f'<svg viewBox="0 0 {WIDTH_PX} {PLOT_PX + 36}" role="img" aria-labelledby="learned-title learned-text">'
        f'<title id="learned-title">{escape(_title(found))}</title><desc id="learned-text">{escape(described)}</desc>'
        f"{''.join(drawn)}</svg></div>"
    )


def _bars(found: Learned) -> tuple[list[str], list[Part], list[int]]:
    """Names, parts and beginnings of hours or days in which something was asked, the last MAX_BARS."""
    hours = sorted(found.hours)
    if hours and hours[-1] - hours[0] < MAX_HOURLY:
        hours = hours[-MAX_BARS:]
        names = [_moment(hour * HOUR_US) for hour in hours]
        return names, [found.hours[hour] for hour in hours], [hour * HOUR_US for hour in hours]
    days = list(found.days.items())[-MAX_BARS:]
    starts = [int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1e6) for day, _ in days]
    return [day for day, _ in days], [part for _, part in days], starts


def _place(event: Event, starts_us: Sequence[int], step: float) -> float:
    """Within the bar that it falls into, by time; between two bars at the latter's beginning."""
    number = sum(start <= event.at_us for start in starts_us) - 1
    if number < 0:
        return float(LEFT_PX)
    length = HOUR_US if len(starts_us) < 2 else min(b - a for a, b in pairwise(starts_us))
    part = min(1.0, (event.at_us - starts_us[number]) / length)
    return LEFT_PX + (number + part) * step


def _mark(event: Event, x: float) -> str:
    told = f"{_moment(event.at_us)}: version {event.version} {event.kind}"
    if event.before is not None and event.after is not None:
        told += f", judged {money(event.before.cost_pico)} before, {money(event.after.cost_pico)} after"
    kind = "saving" if event.kind == "promoted" else "dearer"
    return (
        f'<rect class="{kind}" x="{x - 1:.2f}" y="2" width="2" height="{PLOT_PX + 6}"><title>{escape(told)}</title>'
        f'</rect><text class="tick" x="{x + 4:.2f}" y="12">{escape(event.version or "")}</text>'
    )


def _moment(at_us: int) -> str:
    return f"{datetime.fromtimestamp(at_us / 1e6, UTC):%Y-%m-%d %H:%M}"


def learned_json(found: Learned) -> Mapping[str, Any]:
    return {
        "model": found.model,
        "parts": [
            {
                "version": found.version(number),
                "since": None if number == 0 else _iso(found.events[number - 1].at_us),
                "began": None if number == 0 else found.events[number - 1].kind,
                **_part(part),
            }
            for number, part in enumerate(found.parts)
        ],
        "days": [{"day": day, **_part(part)} for day, part in found.days.items()],
    }


def _part(part: Part) -> dict[str, Any]:
    mean = part.request_pico
    return {
        "requests": part.num_requests,
        "cost_pico": part.cost_pico,
        "cost_usd": exact(part.cost_pico),
        "cost_per_request_pico": mean,
        "cost_per_request_usd": None if mean is None else exact(mean),
        "rows_unpriced": part.num_unpriced,
    }


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")

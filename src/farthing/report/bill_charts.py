"""The bill's charts as inline SVG: spend by day, the way from baseline to cost, shares of models and keys.

No style attributes and no scripts, so that a page's strict content security policy need not be loosened for them.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from html import escape

from farthing.report.bill import Bill
from farthing.report.bill_forecast import Forecast
from farthing.report.bill_period import month_after
from farthing.report.bill_sums import OTHER
from farthing.report.bill_words import LEVER_NAMES, money, share, shown, signed

__all__ = ["MAX_DAYS", "NUM_SERIES", "day_chart", "share_chart", "top", "waterfall_chart"]

NUM_SERIES = 6  # models with a colour of their own; the rest is one more
WIDTH_PX, LEFT_PX, PLOT_PX = 900, 80, 220
LABEL_PX, VALUE_PX, BAR_PX, GAP_PX = 240, 190, 22, 10
MAX_DAYS = 92


def top(amounts: Sequence[tuple[str, int]], num: int) -> list[tuple[str, int]]:
    """The largest `num`, and all others as one."""
    ordered = sorted((pair for pair in amounts if pair[0] != OTHER), key=lambda pair: (-pair[1], pair[0]))
    rest = sum(pico for _, pico in ordered[num:]) + sum(pico for name, pico in amounts if name == OTHER)
    return ordered[:num] + ([(OTHER, rest)] if rest else [])


def day_chart(bill: Bill) -> str:
    """Spend per UTC day, a colour for each of the dearest models; days to come, as forecast, are outlined."""
    days = _days(bill)
    models = [(name, sums.cost_pico) for name, sums in bill.groups["model"].by_cost()]
    names = [name for name, _ in top(models, NUM_SERIES)]
    coming = bill.forecast.per_day_pico if isinstance(bill.forecast, Forecast) else 0
    spent = bill.days
    most = max([1, coming, *(spent.get(day, 0) for day in days)])
    step = (WIDTH_PX - LEFT_PX) / max(1, len(days))
    stacks = _stacks(bill, names, set(days))
    parts = _grid(most)
    for index, day in enumerate(days):
        x = LEFT_PX + index * step
        parts += _stack(stacks.get(day, {}), names, day, x, step, most)
        if coming and day > f"{bill.period.now:%Y-%m-%d}":
            high = coming / most * PLOT_PX
            parts.append(
                f'<rect class="coming" x="{x + step * 0.12:.2f}" y="{PLOT_PX + 8 - high:.2f}" width="{step * 0.76:.2f}"'
                f' height="{high:.2f}"><title>{day}: about {money(coming)}, forecast</title></rect>'
            )
        if index % max(1, -(-len(days) // 10)) == 0:
            parts.append(f'<text class="tick" x="{x:.2f}" y="{PLOT_PX + 28}">{day[5:]}</text>')
    legend = "".join(
        f'<li><span class="key s{_series(names, name)}"></span> {escape(shown(name, 60))}</li>' for name in names
    )
    described = f"{len(days)} days, the dearest {money(most)}; {money(bill.total.cost_pico)} in all"
    chart = _svg("days", "Spend per day by model", described, PLOT_PX + 36, parts)
    return f'{chart}<ul class="legend">{legend}</ul>'


def _days(bill: Bill) -> list[str]:
    """The last MAX_DAYS days from the first that cost something, to the month's end where there is a forecast."""
    period = bill.period
    first = date.fromisoformat(min(bill.days, default=f"{period.since:%Y-%m-%d}"))
    end = min(period.until, max(period.now, period.since + timedelta(days=1)))
    last = (end - timedelta(microseconds=1)).date()
    if isinstance(bill.forecast, Forecast):
        last = (month_after(period.now) - timedelta(days=1)).date()
    last = max(last, date.fromisoformat(max(bill.days, default=first.isoformat())))
    first = max(first, last - timedelta(days=MAX_DAYS - 1))
    return [(first + timedelta(days=index)).isoformat() for index in range((last - first).days + 1)]


def _stacks(bill: Bill, names: Sequence[str], days: set[str]) -> dict[str, dict[str, int]]:
    stacks: dict[str, dict[str, int]] = {}
    for (day, model), pico in bill.day_models.items():
        if day in days:
            stack = stacks.setdefault(day, {})
            name = model if model in names else OTHER
            stack[name] = stack.get(name, 0) + pico
    return stacks


def _stack(amounts: dict[str, int], names: Sequence[str], day: str, x: float, step: float, most: int) -> list[str]:
    parts, floor = [], float(PLOT_PX + 8)
    for name in names:
        pico = amounts.get(name, 0)
        high = pico / most * PLOT_PX
        if pico:
            floor -= high
            parts.append(
                f'<rect class="s{_series(names, name)}" x="{x + step * 0.12:.2f}" y="{floor:.2f}"'
                f' width="{step * 0.76:.2f}" height="{high:.2f}">'
                f"<title>{day}, {escape(shown(name, 80))}: {money(pico)}</title></rect>"
            )
    return parts


def _series(names: Sequence[str], name: str) -> int:
    return NUM_SERIES if name == OTHER else list(names).index(name)


def _grid(most: int) -> list[str]:
    """Lines at none, half and all of the largest."""
    parts = []
    for part in (0, 1, 2):
        y = PLOT_PX + 8 - part * PLOT_PX / 2
        parts.append(f'<line x1="{LEFT_PX}" x2="{WIDTH_PX}" y1="{y:.1f}" y2="{y:.1f}"></line>')
        amount = money(most * part // 2)
        parts.append(f'<text class="tick" x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{amount}</text>')
    return parts


def waterfall_chart(bill: Bill) -> str:
    """From the baseline, lever by lever, to what was paid."""
    total, level = bill.total, bill.total.baseline_pico
    bars = [("baseline", 0, level, "total")]
    for lever, saving in bill.levers.items():
        if saving:
            bars.append((LEVER_NAMES[lever], level, level - saving, "saving" if saving > 0 else "dearer"))
            level -= saving
    bars.append(("paid", 0, total.compared_pico, "total"))
    low = min(0, *(min(start, end) for _, start, end, _ in bars))
    span = max(1, max(max(start, end) for _, start, end, _ in bars) - low)
    scale = (WIDTH_PX - LABEL_PX - VALUE_PX) / span
    parts = []
    for index, (label, start, end, kind) in enumerate(bars):
        left, right = sorted((start, end))
        text = money(end) if kind == "total" else signed(end - start)
        parts += _row(index, label, text, (left - low) * scale, (right - left) * scale, kind)
    described = "; ".join(
        f"{label} {money(end if kind == 'total' else end - start)}" for label, start, end, kind in bars
    )
    return _svg("levers", "From the baseline to what was paid", described, len(bars) * (BAR_PX + GAP_PX), parts)


def share_chart(bill: Bill, dimension: str) -> str:
    """The ten dearest names of a dimension and all others, as bars."""
    amounts = top([(name, sums.cost_pico) for name, sums in bill.groups[dimension].by_cost()], 10)
    amounts = [pair for pair in amounts if pair[1] > 0]
    whole, most = sum(pico for _, pico in amounts), max((pico for _, pico in amounts), default=1)
    parts = []
    for index, (name, pico) in enumerate(amounts):
        wide = pico / most * (WIDTH_PX - LABEL_PX - VALUE_PX)
        parts += _row(index, bill.label(dimension, name), f"{money(pico)}, {share(pico, whole)}", 0, wide, "total")
    described = "; ".join(f"{shown(name, 40)} {money(pico)}" for name, pico in amounts) or "nothing was spent"
    height = max(1, len(amounts)) * (BAR_PX + GAP_PX)
    return _svg(f"share-{dimension}", f"Spend by {dimension}", described, height, parts)


def _row(index: int, label: str, text: str, left: float, wide: float, kind: str) -> list[str]:
    y = index * (BAR_PX + GAP_PX)
    middle = y + BAR_PX * 0.7
    x = LABEL_PX + left
    return [
        f"<g><title>{escape(shown(label, 200))}: {text}</title>"
        f'<text x="{LABEL_PX - 10}" y="{middle:.1f}" text-anchor="end">{escape(shown(label, 26))}</text>'
        f'<rect class="{kind}" x="{x:.2f}" y="{y}" width="{max(wide, 1.0):.2f}" height="{BAR_PX}"></rect>'
        f'<text x="{x + max(wide, 1.0) + 8:.2f}" y="{middle:.1f}">{text}</text></g>'
    ]


def _svg(name: str, title: str, described: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{escape(title)}">'
        f'<svg viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-text">{escape(described)}</desc>'
        f"{''.join(parts)}</svg></div>"
    )

"""The waterfall as one self-contained HTML page: inline SVG, no script, no font and no image from elsewhere."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape

from farthing.economics.waterfall import Row, bars
from farthing.report.distill_panel import distill_html
from farthing.report.document import LeverResult, Report, energy_usd_per_mtok, tok_s
from farthing.report.ladder_panel import ladder_html
from farthing.report.moe_panel import moe_html
from farthing.report.routing_panel import panel_html
from farthing.report.words import headline, hosted_sentence, mib, rate, times, usd

__all__ = ["to_html"]

LABEL_PX, CHART_PX, VALUE_PX = 250, 480, 170
BAR_PX, GAP_PX, AXIS_PX = 24, 12, 30
ZOOM_ABOVE = 4  # a first row this many times the second gets a second chart without it

STYLE = """
:root { color-scheme: light dark; --ink: #1c2328; --paper: #fdfcf9; --soft: #5d6970; --line: #d9d6cd;
  --total: #51687a; --saving: #2f8f5b; --dearer: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6df; --paper: #16191c; --soft: #a3adb3; --line: #3a4147;
  --total: #8ba6ba; --saving: #5cc48b; --dearer: #f0925a; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.lead { font-size: 1.1rem; } .soft, figcaption { color: var(--soft); } figure { margin: 1.2rem 0; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font: 14px system-ui, sans-serif; }
svg .tick { fill: var(--soft); font-size: 12px; } svg line { stroke: var(--line); }
.total { fill: var(--total); } .saving { fill: var(--saving); } .dearer { fill: var(--dearer); }
.saving-line { stroke: var(--saving); } .dearer-line { stroke: var(--dearer); } .front { stroke-opacity: .5; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
.partial { border-left: 4px solid var(--dearer); padding: .4rem .8rem; } code { overflow-wrap: anywhere; }
"""


def to_html(report: Report) -> str:
    """The whole page. It stands alone: it can be opened from disk with no network."""
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>farthing waterfall: {escape(report.model)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            "<h1>What a million tokens cost, lever by lever</h1>",
            *_body(report),
            "</body>\n</html>\n",
        )
    )


def _body(report: Report) -> Iterable[str]:
    yield f'<p class="lead">{escape(headline(report))}</p>'
    if report.is_partial:
        yield f'<p class="partial">Partial report: interrupted. Not measured: {escape(", ".join(report.missing))}.</p>'
    rows = report.rows
    if rows:
        yield _figure(rows, "the whole way", "chart-all")
        if len(rows) > 2 and rows[0].usd_per_mtok.blended > ZOOM_ABOVE * rows[1].usd_per_mtok.blended:
            yield _figure(rows[1:], f"from “{rows[1].lever}” on", "chart-zoom")
        yield "<h2>Measured</h2>"
        yield _table(report)
        yield "<h2>Quality</h2>"
        cells = [(r.lever, r.detail, str(r.quality), r.quality.text, str(r.quality.tokens)) for r in report.results]
        yield _grid(("lever", "what it is", "quality", "compared on", "tokens"), cells, num_text=4)
    if report.moe is not None:
        yield moe_html(report.moe, report.host)
    if report.distill is not None:
        yield distill_html(report.distill, report.host)
    if report.routing is not None:
        yield panel_html(report.routing)
    if report.ladder is not None:
        yield ladder_html(report.ladder)
    if report.hosted:
        yield "<h2>The same tokens at hosted models</h2>"
        yield "<ul>" + "".join(f"<li>{escape(hosted_sentence(hosted))}</li>" for hosted in report.hosted) + "</ul>"
    if report.notes:
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in report.notes) + "</ul>"
    yield "<h2>Where this was measured</h2>"
    yield f"<p>{escape(str(report.machine))}. farthing {escape(report.commit)}, {escape(report.measured_at)}.</p>"
    yield (
        f"<p>Model {escape(report.model)}; workload {escape(report.workload)}, {report.num_requests} requests; "
        f"machine price {usd(report.host.usd_per_hour)} an hour ({escape(report.host.source)}), always busy.</p>"
    )
    yield f"<p><code>{escape(report.command)}</code></p>"


def _figure(rows: Sequence[Row], what: str, name: str) -> str:
    chart = bars(rows)
    scale = CHART_PX / float(max(max(bar.start, bar.end) for bar in chart) or 1)
    height = len(chart) * (BAR_PX + GAP_PX) + AXIS_PX
    parts = [_axis(scale, height)]
    for index, bar in enumerate(chart):
        low, high = sorted((bar.start, bar.end))
        kind = "total" if bar.is_total else "saving" if bar.end <= bar.start else "dearer"
        amount = usd(bar.end) if bar.is_total else f"{'−' if bar.end <= bar.start else '+'}{usd(high - low)}"
        y = index * (BAR_PX + GAP_PX)
        width = max(float(high - low) * scale, 1.0)
        middle = y + BAR_PX * 0.7
        parts.append(
            f'<g><title>{escape(bar.label)}: {amount} per million tokens</title>'
            f'<text x="{LABEL_PX - 10}" y="{middle:.1f}" text-anchor="end">{escape(bar.label)}</text>'
            f'<rect class="bar {kind}" x="{LABEL_PX + float(low) * scale:.2f}" y="{y}" width="{width:.2f}" '
            f'height="{BAR_PX}" data-start="{bar.start:f}" data-end="{bar.end:f}"></rect>'
            f'<text x="{LABEL_PX + float(high) * scale + 8:.2f}" y="{middle:.1f}">{amount}</text></g>'
        )
    total = LABEL_PX + CHART_PX + VALUE_PX
    describe = "; ".join(f"{row.lever} {usd(row.usd_per_mtok.blended)}" for row in rows)
    return (
        f'<figure><svg viewBox="0 0 {total} {height}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">Waterfall of blended dollars per million tokens, {escape(what)}</title>'
        f'<desc id="{name}-text">{escape(describe)}</desc>{"".join(parts)}</svg>'
        f"<figcaption>Blended $ per million tokens, {escape(what)}: grey bars are totals, green bars what a lever "
        "takes off, orange bars what it adds.</figcaption></figure>"
    )


def _axis(scale: float, height: int) -> str:
    """Four ticks at round numbers, and their lines."""
    step = _round_step(CHART_PX / scale / 4)
    parts, index = [], 0
    while float(step * index) * scale <= CHART_PX:
        x = LABEL_PX + float(step * index) * scale
        parts.append(f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{height - AXIS_PX + 4}"></line>')
        parts.append(f'<text class="tick" x="{x:.2f}" y="{height - 8}" text-anchor="middle">${step * index:f}</text>')
        index += 1
    return "".join(parts)


def _round_step(at_least: float) -> Decimal:
    """The smallest of 1, 2, 5, 10 ... (times a power of ten) that is at least this."""
    power = Decimal(10) ** (Decimal(at_least).adjusted() if at_least > 0 else 0)
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= Decimal(at_least))


def _table(report: Report) -> str:
    head = ["lever", "$/Mtok input", "output", "blended", "× row above", "× first", "seconds"]
    head += ["input tok/s", "output tok/s", "peak MiB"]
    head += ["energy $/Mtok"] if report.host.watts is not None else []
    cells = [_cells(report, row, result) for row, result in zip(report.rows, report.results, strict=True)]
    return _grid(head, cells)


def _cells(report: Report, row: Row, result: LeverResult) -> list[str]:
    price = row.usd_per_mtok
    cells = [row.lever + (" (scaled from a sample)" if result.sample else "")]
    cells += [usd(price.input), usd(price.output), usd(price.blended)]
    cells += [times(row.factor_previous), times(row.factor_first), f"{row.seconds:.1f}"]
    cells += [rate(tok_s(row.input_tokens, row.input_s)), rate(tok_s(row.output_tokens, row.output_s))]
    cells += [mib(result.peak_bytes)]
    energy = energy_usd_per_mtok(row, report.host)
    return cells + ([] if energy is None else [usd(energy)])


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]], num_text: int = 1) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="text"' if index < num_text else "" for index in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'

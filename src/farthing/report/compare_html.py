"""A comparison as one self-contained HTML page: accuracy against dollars as inline SVG, no script."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from math import ceil, floor, log10

from farthing.report.compare import Comparison, ModelResult
from farthing.report.compare_words import HEAD, PAIRED_HEAD, cells, headline, paired_cells, remarks
from farthing.report.html import STYLE as SHARED_STYLE
from farthing.report.words import usd

__all__ = ["to_html"]

WIDTH_PX, PLOT_PX, LEFT_PX, RIGHT_PX, TOP_PX, AXIS_PX = 900, 340, 70, 200, 16, 48
MIN_DECADES = 0.5  # of the dollars' axis
STYLE = f"""{SHARED_STYLE.strip()}
.front {{ stroke: var(--saving); stroke-width: 2; fill: none; }} .whisker {{ stroke: var(--soft); }}
.axis {{ fill: var(--soft); }}
"""


def to_html(found: Comparison) -> str:
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>farthing compare: {escape(found.task)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            *_body(found),
            "</main>\n</body>\n</html>\n",
        )
    )


def _body(found: Comparison) -> Iterable[str]:
    yield f'<h1>The smallest model that can do it</h1>\n<p class="lead">{escape(headline(found))}</p>'
    if found.is_partial:
        yield '<p class="partial">Partial: interrupted before every model had answered every row.</p>'
    priced = [model for model in found.models if model.usd_per_1000 is not None and model.num_rows]
    if priced:
        yield _figure(priced)
    yield f"<h2>Models</h2>{_grid(HEAD, map(cells, found.models))}"
    if found.verdict is not None and found.verdict.against:
        yield f"<h2>Beside the best, {escape(found.verdict.best)}</h2>"
        yield _grid(PAIRED_HEAD, map(paired_cells, found.verdict.against))
    if notes := remarks(found):
        yield "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
    yield f'<p class="soft">{escape(found.task)}, {found.num_rows:,} rows.</p>'


class _Axes:
    """Dollars on a logarithmic axis in whole pixels of the plot, accuracy on a linear one. What is free stands at the
    left edge, which is no place on the axis."""

    def __init__(self, models: Sequence[ModelResult]) -> None:
        logs = [log10(m.usd_per_1000) for m in models if m.usd_per_1000]
        self.has_free = any(m.usd_per_1000 == 0 for m in models)
        low, high = min(logs, default=0.0), max(logs, default=0.0)
        pad = max(0.12, (MIN_DECADES - (high - low)) / 2)
        self.low, self.high = low - pad, high + pad
        self.left = LEFT_PX + (60 if self.has_free else 0)
        self.bottom = floor(min(m.interval[0] for m in models) * 20) / 20
        self.top = ceil(max(m.interval[1] for m in models) * 20) / 20

    def x(self, model: ModelResult) -> float:
        return self.x_of(log10(model.usd_per_1000)) if model.usd_per_1000 else LEFT_PX + 20.0

    def x_of(self, log_usd: float) -> float:
        return self.left + (log_usd - self.low) / (self.high - self.low) * (WIDTH_PX - RIGHT_PX - self.left)

    def y(self, accuracy: float) -> float:
        return TOP_PX + (self.top - accuracy) / (self.top - self.bottom) * PLOT_PX


def _figure(models: Sequence[ModelResult]) -> str:
    axes = _Axes(models)
    parts = [*_grid_lines(axes), *_front(models, axes)]
    for model, label_y in zip(models, _label_heights(models, axes), strict=True):
        x, y = axes.x(model), axes.y(model.accuracy)
        low, high = (axes.y(bound) for bound in model.interval)
        kind = "saving" if model.is_on_front else "total"
        told = f"{model.name}: {model.accuracy:.1%}, {_price(model)} per 1,000 requests"
        parts.append(
            f"<g><title>{escape(told)}</title>"
            f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"></line>'
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"></circle>'
            f'<text x="{x + 11:.1f}" y="{label_y + 5:.1f}">{escape(_short(model.name))}</text></g>'
        )
    described = "; ".join(f"{m.name} {m.accuracy:.1%} at {_price(m)}" for m in models)
    height = TOP_PX + PLOT_PX + AXIS_PX
    return (
        f'<figure><svg viewBox="0 0 {WIDTH_PX} {height}" role="img" aria-labelledby="front-title front-text">'
        '<title id="front-title">Accuracy against dollars per 1,000 requests</title>'
        f'<desc id="front-text">{escape(described)}</desc>{"".join(parts)}</svg>'
        "<figcaption>Accuracy with its 95 % interval against dollars per 1,000 requests (logarithmic). Green, joined: "
        "nothing is both cheaper and more accurate. Models without a known price are in the table only.</figcaption>"
        "</figure>"
    )


def _grid_lines(axes: _Axes) -> Iterable[str]:
    right, floor_y = WIDTH_PX - RIGHT_PX, TOP_PX + PLOT_PX
    step = 0.05 if axes.top - axes.bottom <= 0.45 else 0.1 if axes.top - axes.bottom <= 0.8 else 0.2
    for index in range(round((axes.top - axes.bottom) / step) + 1):
        level = axes.bottom + index * step
        y = axes.y(level)
        yield f'<line x1="{LEFT_PX}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"></line>'
        yield f'<text class="tick" x="{LEFT_PX - 8}" y="{y + 4:.1f}" text-anchor="end">{level:.0%}</text>'
    if axes.has_free:
        yield f'<text class="tick" x="{LEFT_PX + 20}" y="{floor_y + 20}" text-anchor="middle">free</text>'
    for log_usd in _ticks(axes):
        x = axes.x_of(log_usd)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_PX}" y2="{floor_y}"></line>'
        yield f'<text class="tick" x="{x:.1f}" y="{floor_y + 20}" text-anchor="middle">${10**log_usd:.10g}</text>'
    yield f'<text class="axis" x="{LEFT_PX}" y="{floor_y + 42}">dollars per 1,000 requests</text>'


def _ticks(axes: _Axes) -> list[float]:
    """Powers of ten; where they are few, their 2- and 5-fold too."""
    wholes = range(floor(axes.low), ceil(axes.high) + 1)
    steps = (0.0,) if axes.high - axes.low > 2 else (0.0, log10(2), log10(5))
    return [whole + step for whole in wholes for step in steps if axes.low <= whole + step <= axes.high]


def _front(models: Sequence[ModelResult], axes: _Axes) -> Iterable[str]:
    points = sorted((axes.x(m), axes.y(m.accuracy)) for m in models if m.is_on_front)
    if len(points) > 1:
        yield f'<polyline class="front" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"></polyline>'


def _label_heights(models: Sequence[ModelResult], axes: _Axes) -> list[float]:
    """Where each name stands: beside its point, moved down where another is in the way."""
    taken: list[tuple[float, float]] = []
    heights = []
    for model in models:
        x, y = axes.x(model), axes.y(model.accuracy)
        while any(abs(x - other_x) < RIGHT_PX and abs(y - other_y) < 16 for other_x, other_y in taken):
            y += 4
        taken.append((x, y))
        heights.append(y)
    return heights


def _price(model: ModelResult) -> str:
    assert model.usd_per_1000 is not None
    return usd(model.usd_per_1000)


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'

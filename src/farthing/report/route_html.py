"""An evaluated router as one self-contained HTML page: quality against cost as inline SVG, no script."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from math import ceil, floor

from farthing.report.bill_words import shown
from farthing.report.html import STYLE as SHARED_STYLE
from farthing.report.route_words import MODE_NAMES, cost, cost_head, factor, headline, promise, share
from farthing.router.evaluate import Evaluation, ModeResult, Policy

__all__ = ["to_html"]

WIDTH_PX, PLOT_PX, LEFT_PX, RIGHT_PX, TOP_PX, AXIS_PX = 900, 360, 70, 170, 16, 48
STYLE = f"""{SHARED_STYLE.strip()}
polyline {{ fill: none; stroke-width: 2.5; }} .route {{ stroke: var(--total); }} .cascade {{ stroke: var(--saving); }}
.lot {{ stroke: var(--soft); stroke-dasharray: 5 4; stroke-width: 1.5; }} .axis {{ fill: var(--soft); }}
.promised {{ fill: var(--paper); stroke: var(--dearer); stroke-width: 3; }}
"""
HEAD = ("policy", "quality", "95 %", "cost", "cheaper than the dearest", "lot at that cost")


def to_html(found: Evaluation) -> str:
    """The whole page. It stands alone: it can be opened from disk with no network."""
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"farthing route eval: {' or '.join(found.models)}"
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            *_body(found),
            "</main>\n</body>\n</html>\n",
        )
    )


def _body(found: Evaluation) -> Iterable[str]:
    yield f'<h1>What routing keeps, and what it costs</h1>\n<p class="lead">{escape(headline(found))}</p>'
    yield _figure(found)
    yield f"<h2>Policies ({escape(cost_head(found.unit))})</h2>"
    yield _grid(HEAD, _policy_rows(found))
    for mode in found.modes:
        yield f"<h2>{escape(MODE_NAMES[mode.mode].capitalize())}</h2>"
        if mode.proven is not None:
            yield f"<p>Promised: {escape(promise(mode.proven, found.unit))}.</p>"
        yield _grid(("cost", "quality", "95 %", "lot at that cost", "escalated"), _curve_rows(found, mode))
    if found.drift is not None:
        alarms = ", ".join(found.drift.alarms) or "none"
        psi = ", ".join(f"{name} {value:.3f}" for name, value in found.drift.psi.items())
        yield f"<h2>Drift against the training rows</h2><p>Alarms: {escape(alarms)}. PSI: {escape(psi)}.</p>"
    yield f'<p class="soft">{found.num_rows:,} rows that the router has not seen.</p>'


class _Axes:
    """Cost from 0 and quality, both linear."""

    def __init__(self, found: Evaluation) -> None:
        points = [point for mode in found.modes for point in mode.points]
        policies = (*found.singles, found.oracle)
        qualities = [point.quality for point in points] + [policy.quality for policy in policies]
        self.right: float = max([point.cost for point in points] + [policy.cost for policy in policies])
        self.bottom = floor(min(qualities) * 20) / 20
        self.top = max(ceil(max(qualities) * 20) / 20, self.bottom + 0.05)

    def x(self, amount: float) -> float:
        return LEFT_PX + amount / self.right * (WIDTH_PX - RIGHT_PX - LEFT_PX)

    def y(self, quality: float) -> float:
        return TOP_PX + (self.top - quality) / (self.top - self.bottom) * PLOT_PX


def _figure(found: Evaluation) -> str:
    axes = _Axes(found)
    small, large = found.singles[0], found.singles[-1]
    parts = [*_grid_lines(axes, found)]
    parts.append(_line(axes, "lot", [(small.cost, small.quality), (large.cost, large.quality)]))
    for mode in found.modes:
        parts.append(_line(axes, mode.mode, [(point.cost, point.quality) for point in mode.points]))
    parts += [_dot(axes, found, policy, "total") for policy in found.singles]
    parts.append(_dot(axes, found, found.oracle, "saving"))
    for mode in found.modes:
        if mode.chosen is not None:
            point = mode.chosen
            name = f"{mode.mode}, promised"
            parts.append(_dot(axes, found, Policy(name, point.cost, point.quality, point.low, point.high), "promised"))
    described = "; ".join(f"{p.name} {share(p.quality)} at {cost(p.cost, found.unit)}" for p in found.singles)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH_PX} {TOP_PX + PLOT_PX + AXIS_PX}" role="img" '
        'aria-labelledby="curve-title curve-text"><title id="curve-title">Mean quality against cost</title>'
        f'<desc id="curve-text">{escape(described)}</desc>{"".join(parts)}</svg>'
        f"<figcaption>Mean quality against {escape(cost_head(found.unit))}. Blue: routed by the prompt; green: "
        "cascade; dashed: the cheapest and the dearest mixed by lot; ringed: the thresholds with a promise; oracle: "
        "the cheapest right answer, known beforehand.</figcaption></figure>"
    )


def _line(axes: _Axes, name: str, points: Sequence[tuple[float, float]]) -> str:
    text = " ".join(f"{axes.x(at):.1f},{axes.y(quality):.1f}" for at, quality in points)
    return f'<polyline class="{name}" points="{text}"></polyline>'


def _dot(axes: _Axes, found: Evaluation, policy: Policy, kind: str) -> str:
    x, y = axes.x(policy.cost), axes.y(policy.quality)
    told = f"{policy.name}: {share(policy.quality)}, {cost(policy.cost, found.unit)} {cost_head(found.unit)}"
    return (
        f'<g><title>{escape(told)}</title><circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="6"></circle>'
        f'<text x="{x + 11:.1f}" y="{y + 5:.1f}">{escape(shown(policy.name, 22))}</text></g>'
    )


def _grid_lines(axes: _Axes, found: Evaluation) -> Iterable[str]:
    right, bottom = WIDTH_PX - RIGHT_PX, TOP_PX + PLOT_PX
    step = 0.05 if axes.top - axes.bottom <= 0.45 else 0.1 if axes.top - axes.bottom <= 0.8 else 0.2
    for index in range(int((axes.top - axes.bottom) / step + 1e-9) + 1):
        y = axes.y(axes.bottom + index * step)
        yield f'<line x1="{LEFT_PX}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"></line>'
        label = f"{axes.bottom + index * step:.0%}"
        yield f'<text class="tick" x="{LEFT_PX - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    for index in range(5):
        amount = axes.right * index / 4
        x = axes.x(amount)
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP_PX}" y2="{bottom}"></line>'
        label = cost(amount, found.unit)
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{label}</text>'
    yield f'<text class="axis" x="{LEFT_PX}" y="{bottom + 42}">{escape(cost_head(found.unit))}</text>'


def _policy_rows(found: Evaluation) -> Iterable[Sequence[str]]:
    dearest = found.singles[-1]
    for policy in (*found.singles, found.oracle):
        name = policy.name if policy is found.oracle else f"always {policy.name}"
        name += " (best single)" if policy is found.best_single else ""
        interval = f"{share(policy.low)}–{share(policy.high)}"
        amount = cost(policy.cost, found.unit)
        yield (name, share(policy.quality), interval, amount, factor(dearest.cost, policy.cost), "")
    for mode in found.modes:
        if mode.chosen is not None:
            point = mode.chosen
            interval = f"{share(point.low)}–{share(point.high)}"
            amounts = (cost(point.cost, found.unit), factor(dearest.cost, point.cost), share(point.random))
            yield (MODE_NAMES[mode.mode], share(point.quality), interval, *amounts)


def _curve_rows(found: Evaluation, mode: ModeResult) -> Iterable[Sequence[str]]:
    for point in mode.points:
        interval = f"{share(point.low)}–{share(point.high)}"
        yield (cost(point.cost, found.unit), share(point.quality), interval, share(point.random), share(point.share))


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "<tr>" + "".join(f"<{tag}{scope}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table></div>"
    )

"""The waterfall's second panel, another model pair: what asking the large model only where it is needed costs.

With the quality that it holds, measured on the user's own labelled rows; outside of the first panel's sum.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.errors import InvalidRequest
from farthing.report.bill_words import shown
from farthing.report.route_words import MODE_NAMES, cost, cost_head, factor, promise, share
from farthing.router.curve import Point
from farthing.router.evaluate import Evaluation

__all__ = ["PanelRow", "RoutingPanel", "panel_html", "panel_json", "print_panel", "routing_panel"]

WIDTH = 150  # where there is less, lines are long rather than cut
HEAD = ("policy", "quality", "95 %", "of the large", "cheaper", "lot at that cost", "escalated")
LABEL_PX, CHART_PX, VALUE_PX, BAR_PX, GAP_PX = 250, 400, 250, 24, 12


@dataclass(frozen=True)
class PanelRow:
    name: str
    cost: float
    quality: float
    low: float
    high: float
    random: float | None  # quality of the two models mixed by lot at the same cost; None for a model alone
    share: float | None  # of requests that the cheapest model's answer does not serve
    promise: str | None


@dataclass(frozen=True)
class RoutingPanel:
    """Always the dearest model first, then each calibrated way to ask it less, then the cheapest alone."""

    source: str  # the labelled rows
    found: Evaluation
    rows: tuple[PanelRow, ...]

    @property
    def title(self) -> str:
        names = (shown(self.found.models[0], 60), shown(self.found.models[-1], 60))
        return f"Another model pair: {names[0]} where it does, {names[1]} where it does not"

    @property
    def sentence(self) -> str:
        return (
            f"Measured on {self.found.num_rows:,} rows of {self.source} that the router has not seen. It changes the "
            "model, so it stands outside of the sum above: the savings do not multiply unchecked."
        )


def routing_panel(source: str, found: Evaluation) -> RoutingPanel:
    """Raises InvalidRequest for a router without any threshold: there would be nothing to show."""
    small, large = found.singles[0], found.singles[-1]
    routed = [
        _routed(mode.mode, mode.chosen, promise(mode.proven, found.unit))
        for mode in found.modes
        if mode.chosen is not None and mode.proven is not None
    ]
    if not routed:
        raise InvalidRequest("the router has no threshold; `farthing route calibrate` sets one")
    alone = [
        PanelRow(f"always {one.name}", one.cost, one.quality, one.low, one.high, None, None, None)
        for one in (large, small)
    ]
    return RoutingPanel(source, found, (alone[0], *routed, alone[1]))


def panel_json(panel: RoutingPanel) -> dict[str, Any]:
    rows = [asdict(row) | {"cheaper": _ratio(panel.rows[0], row)} for row in panel.rows]
    return {"source": panel.source, "requests": panel.found.num_rows, "unit": panel.found.unit, "rows": rows}


def print_panel(panel: RoutingPanel, console: Console) -> None:
    console.width = max(console.width, WIDTH)
    console.print(panel.title)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(HEAD[0], no_wrap=True)
    for name in (cost_head(panel.found.unit), *HEAD[1:]):
        table.add_column(name, justify="right", no_wrap=True)
    for row in panel.rows:
        table.add_row(shown(row.name, 40), cost(row.cost, panel.found.unit), *_cells(panel, row))
    console.print(table)
    for line in _promises(panel):
        console.print(f"• {line}")
    console.print(panel.sentence)


def panel_html(panel: RoutingPanel) -> str:
    head = (HEAD[0], cost_head(panel.found.unit), *HEAD[1:])
    cells = [(row.name, cost(row.cost, panel.found.unit), *_cells(panel, row)) for row in panel.rows]
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in cells)
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    promises = "".join(f"<li>{escape(line)}</li>" for line in _promises(panel))
    return (
        f"<h2>{escape(panel.title)}</h2>{_chart(panel)}"
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f"<ul>{promises}</ul><p>{escape(panel.sentence)}</p>"
    )


def _routed(mode: str, point: Point, said: str) -> PanelRow:
    return PanelRow(MODE_NAMES[mode], point.cost, point.quality, point.low, point.high, point.random, point.share, said)


def _cells(panel: RoutingPanel, row: PanelRow) -> tuple[str, ...]:
    best = panel.rows[0].quality
    return (
        share(row.quality),
        f"{share(row.low)}–{share(row.high)}",
        share(row.quality / best) if best else "–",
        factor(panel.rows[0].cost, row.cost),
        "" if row.random is None else share(row.random),
        "" if row.share is None else share(row.share),
    )


def _promises(panel: RoutingPanel) -> Sequence[str]:
    return [f"{row.name} promises {row.promise}" for row in panel.rows if row.promise is not None]


def _ratio(dear: PanelRow, row: PanelRow) -> float | None:
    return dear.cost / row.cost if row.cost > 0 else None


def _chart(panel: RoutingPanel) -> str:
    """A bar for each: they are alternatives, so none hangs from another."""
    most = max(row.cost for row in panel.rows)
    parts = []
    for index, row in enumerate(panel.rows):
        y = index * (BAR_PX + GAP_PX)
        width = max(row.cost / most * CHART_PX, 1.0)
        text = f"{cost(row.cost, panel.found.unit)}, quality {share(row.quality)}"
        kind = "total" if row.share is None else "saving" if row.cost <= panel.rows[0].cost else "dearer"
        parts.append(
            f"<g><title>{escape(row.name)}: {text}</title>"
            f'<text x="{LABEL_PX - 10}" y="{y + 17}" text-anchor="end">{escape(shown(row.name, 32))}</text>'
            f'<rect class="bar {kind}" x="{LABEL_PX}" y="{y}" width="{width:.2f}" height="{BAR_PX}"></rect>'
            f'<text x="{LABEL_PX + width + 8:.2f}" y="{y + 17}">{text}</text></g>'
        )
    height = len(panel.rows) * (BAR_PX + GAP_PX)
    described = "; ".join(f"{row.name} {cost(row.cost, panel.found.unit)}" for row in panel.rows)
    return (
        f'<figure><svg viewBox="0 0 {LABEL_PX + CHART_PX + VALUE_PX} {height}" role="img" '
        'aria-labelledby="routing-title routing-text"><title id="routing-title">Cost by policy</title>'
        f'<desc id="routing-text">{escape(described)}</desc>{"".join(parts)}</svg>'
        f"<figcaption>{escape(cost_head(panel.found.unit))} of each policy, and its mean quality.</figcaption></figure>"
    )

"""Routing in words: what a threshold promises, what it kept, what a cost is."""

from math import isfinite

from farthing.report.bill_words import shown
from farthing.router.calibrate import Proven
from farthing.router.curve import Point
from farthing.router.evaluate import Evaluation, ModeResult
from farthing.router.origin import Unit

__all__ = ["MODE_NAMES", "cost", "cost_head", "factor", "headline", "held", "promise", "share"]

MODE_NAMES = {"route": "routed by the prompt", "cascade": "cascade (small answer checked)"}
_HEADS: dict[Unit, str] = {"USD per request": "$/1k requests", "USD per million tokens": "$/Mtok"}


def cost_head(unit: Unit) -> str:
    return _HEADS[unit]


def cost(amount: float, unit: Unit) -> str:
    """Four digits, of a thousand requests or of a million tokens."""
    shown = amount * 1000 if unit == "USD per request" else amount
    return f"{shown:,.4g}" if shown < 1e6 else f"{shown:,.0f}"


def share(part: float) -> str:
    return f"{part:.1%}"


def factor(dear: float, cheap: float) -> str:
    return f"{dear / cheap:.2f}×" if cheap > 0 else "free"


def promise(found: Proven, unit: Unit) -> str:
    """What a threshold holds, and how surely."""
    goal = found.goal
    target = {
        "quality": f"a mean quality of at least {share(goal.target)}",
        "share": f"at least {share(goal.target)} of the dearest model's quality",
        "cost": f"a mean cost of at most {cost(goal.target, unit)} {cost_head(unit)}",
    }[goal.kind]
    on = f"on {found.num_rows:,} rows"
    if found.price is None:
        return f"no threshold: {target} could not be proven {on}"
    always = ""
    if not isfinite(found.price):
        always = ", by always asking the dearest model" if found.price < 0 else ", by always keeping the cheapest"
    return f"{target}{always}; wrong with a chance of at most {goal.delta:g} (proven {on}, for traffic like them)"


def held(found: Proven, chosen: Point, best_quality: float) -> str:
    """Whether the promise held on other rows. An interval that holds the target decides neither way."""
    goal = found.goal
    if goal.kind == "cost":
        return "held" if chosen.cost <= goal.target else "not held"
    target = goal.target * (best_quality if goal.kind == "share" else 1.0)
    if chosen.quality >= target:
        return "held"
    return "not held" if chosen.high < target else "missed, within the interval"


def headline(found: Evaluation) -> str:
    """The threshold that saves most, against the best single model and lot at the same cost."""
    chosen = [mode for mode in found.modes if mode.chosen is not None]
    if not chosen:
        return "No threshold is set yet: `farthing route calibrate` sets one; the curve shows what could be had."
    mode = min(chosen, key=_cost_of)
    point = mode.chosen
    assert point is not None, "only those with one were kept"
    dearest = found.singles[-1]
    kept = f"{share(point.quality / dearest.quality)} of its quality" if dearest.quality > 0 else "its quality is 0"
    against = point.quality - point.random
    is_cheaper = point.cost <= dearest.cost
    against_large = (
        f"{factor(dearest.cost, point.cost)} cheaper" if is_cheaper else f"{factor(point.cost, dearest.cost)} DEARER"
    )
    return (
        f"{MODE_NAMES[mode.mode]}: {against_large} than always {shown(dearest.name, 60)}, {kept}; "
        f"{abs(against) * 100:.1f} points {'above' if against >= 0 else 'BELOW'} lot at the same cost."
    )


def _cost_of(mode: ModeResult) -> float:
    return mode.chosen.cost if mode.chosen is not None else float("inf")

"""What `farthing route` found, as JSON documents."""

from dataclasses import asdict
from math import isfinite
from typing import Any

from farthing.router.calibrate import Proven
from farthing.router.curve import Point
from farthing.router.drift import Drift
from farthing.router.evaluate import Evaluation, ModeResult, Policy
from farthing.router.explain import AnswerReason, Why
from farthing.router.trained import Trained

__all__ = ["drift_json", "evaluation_json", "explanation_json", "proven_json", "router_json"]


def router_json(trained: Trained) -> dict[str, Any]:
    return {
        "models": list(trained.models),
        "costs": dict(zip(trained.models, trained.costs, strict=True)),
        "unit": trained.origin.unit,
        "modes": list(trained.prices),
        "hidden_states_of": None if trained.hidden is None else trained.hidden.model,
        "rows_trained": len(trained.origin.trained),
        "rows_calibrated": len(trained.origin.calibrated),
        "proven": {mode: proven_json(found) for mode, found in trained.proven.items()},
    }


def proven_json(found: Proven) -> dict[str, Any]:
    """price null and is_proven: always the dearest model, or always the cheapest."""
    price = found.price
    return {
        "goal": found.goal.kind,
        "target": found.goal.target,
        "delta": found.goal.delta,
        "is_proven": price is not None,
        "price": price if price is not None and isfinite(price) else None,
        "always": None if price is None or isfinite(price) else "dearest" if price < 0 else "cheapest",
        "p_value": found.p_value,
        "quality": found.quality,
        "cost": found.cost,
        "rows": found.num_rows,
    }


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    return {
        "models": list(found.models),
        "unit": found.unit,
        "rows": found.num_rows,
        "singles": [_policy(policy) for policy in found.singles],
        "best_single": _policy(found.best_single),
        "oracle": _policy(found.oracle),
        "modes": {mode.mode: _mode(mode) for mode in found.modes},
        "drift": None if found.drift is None else drift_json(found.drift),
    }


def drift_json(found: Drift) -> dict[str, Any]:
    return {"rows": found.num_rows, "psi": dict(found.psi), "alarms": list(found.alarms)}


def explanation_json(why: Why, answer: AnswerReason | None, trained: Trained) -> dict[str, Any]:
    return {
        **asdict(why),
        "quality": dict(why.quality),
        "promises": {mode: proven_json(found) for mode, found in trained.proven.items()},
        "answer": None if answer is None else asdict(answer),
    }


def _mode(found: ModeResult) -> dict[str, Any]:
    return {
        "curve": [_point(point) for point in found.points],
        "promised": None if found.proven is None else proven_json(found.proven),
        "chosen": None if found.chosen is None else _point(found.chosen),
        **{name: None if (value := getattr(found, name)) is None else asdict(value)
           for name in ("apgr", "cpt50", "cpt80")},
    }  # fmt: skip


def _point(point: Point) -> dict[str, Any]:
    return asdict(point)


def _policy(policy: Policy) -> dict[str, Any]:
    return asdict(policy)

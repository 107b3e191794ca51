"""A trained router on labelled rows: its curve beside the policies that need no router, and the one with hindsight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Outcome, Proven
from farthing.router.curve import Point, cascade_outcome, curve, route_outcome
from farthing.router.drift import MIN_LIVE, Drift, drift
from farthing.router.encode import encode_prompts
from farthing.router.labelled import Labelled
from farthing.router.metrics import Interval, Pair, apgr, bootstrap, cpt
from farthing.router.origin import Unit
from farthing.router.policy import spent
from farthing.router.trained import Trained

__all__ = ["Evaluation", "ModeResult", "Policy", "evaluate", "mode_outcome"]

Vector = NDArray[np.float64]
NUM_DRAWS = 200
MIN_EVAL_ROWS = 20


@dataclass(frozen=True)
class Policy:
    """What all rows get, with the 95 % interval of the mean quality."""

    name: str
    cost: float
    quality: float
    low: float
    high: float


@dataclass(frozen=True)
class ModeResult:
    mode: str
    points: tuple[Point, ...]  # from the dearest to the cheapest
    proven: Proven | None  # what calibration promised
    chosen: Point | None  # that threshold, on these rows
    apgr: Interval | None  # None where the dearest model is not better, so that there is no gap to recover
    cpt50: Interval | None
    cpt80: Interval | None


@dataclass(frozen=True)
class Evaluation:
    models: tuple[str, ...]
    unit: Unit
    num_rows: int
    singles: tuple[Policy, ...]  # each model alone, the cheapest first
    best_single: Policy  # of equals the cheaper
    oracle: Policy  # the cheapest of the best answers, known beforehand: what no router has
    modes: tuple[ModeResult, ...]
    drift: Drift | None  # None: too few rows to say


def evaluate(trained: Trained, rows: Labelled, seed: int = 0) -> Evaluation:
    """`rows` must be others than those that trained it. Costs are those of the rows."""
    if len(rows) < MIN_EVAL_ROWS:
        raise InvalidRequest(f"{len(rows)} rows to judge the router by; at least {MIN_EVAL_ROWS} are needed")
    names, costs = rows.models, np.array(rows.costs)
    singles = tuple(_policy(name, rows.quality[:, i], float(costs[i])) for i, name in enumerate(names))
    best = max(reversed(singles), key=lambda policy: (policy.quality, -policy.cost))
    hindsight = np.argmax(rows.quality, axis=1)  # of equals the first, which is the cheapest
    at_best = rows.quality[np.arange(len(rows)), hindsight]
    oracle = _policy("oracle", at_best, float(spent(hindsight, costs).mean()))
    has_answers = bool(trained.checks) and trained.checks.keys() <= rows.checked.keys()
    modes = tuple(_mode(trained, rows, mode, seed) for mode in trained.prices if mode == "route" or has_answers)
    signals = trained.signals(encode_prompts(rows.prompts)) if len(rows) >= MIN_LIVE else None
    changed = None if signals is None else drift(trained.base, signals)
    return Evaluation(names, trained.origin.unit, len(rows), singles, best, oracle, modes, changed)


def mode_outcome(trained: Trained, rows: Labelled, mode: str) -> tuple[Callable[[float], Outcome], Vector, Pair]:
    """What each price gives on rows; the score by which requests go to the dearer model; the two it decides between."""
    if mode == "route":
        quality = trained.before.quality(encode_prompts(rows.prompts))
        return route_outcome(rows, quality), quality[:, -1] - quality[:, 0], rows.pair
    checked = trained.checked(rows)
    pair = Pair(rows.quality[:, 0], rows.quality[:, len(checked[0].next_quality)])
    return cascade_outcome(rows, checked), -checked[0].p_right, pair


def _mode(trained: Trained, rows: Labelled, mode: str, seed: int) -> ModeResult:
    outcome, scores, pair = mode_outcome(trained, rows, mode)
    found = trained.proven.get(mode)
    chosen = None if found is None or found.price is None else curve(rows, outcome, [found.price])[0]
    figures: Mapping[str, Interval | None] = dict.fromkeys(("apgr", "cpt50", "cpt80"))
    if pair.gap.mean() > 0:
        rng = np.random.default_rng(seed)
        figures = {
            "apgr": _drawn(lambda part, at: apgr(at, part), pair, scores, rng),
            "cpt50": _drawn(lambda part, at: cpt(at, part, 0.5), pair, scores, rng),
            "cpt80": _drawn(lambda part, at: cpt(at, part, 0.8), pair, scores, rng),
        }
    return ModeResult(mode, curve(rows, outcome, trained.prices[mode]), found, chosen, **figures)


def _drawn(
    measure: Callable[[Pair, Vector], float], pair: Pair, scores: Vector, rng: np.random.Generator
) -> Interval | None:
    """None where rows drawn anew may have no gap at all: then an interval would be of nothing."""
    try:
        return bootstrap(lambda rows: measure(pair.take(rows), scores[rows]), len(scores), rng, NUM_DRAWS)
    except InvalidRequest:
        return None


def _policy(name: str, quality: Vector, cost: float) -> Policy:
    mean, half = float(quality.mean()), 1.96 * float(quality.std()) / len(quality) ** 0.5
    return Policy(name, cost, mean, max(mean - half, 0.0), min(mean + half, 1.0))

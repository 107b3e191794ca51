"""Which of the labelled rows train a router, which set its thresholds, which judge it: never the same ones twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal, Outcome
from farthing.router.evaluate import Evaluation, evaluate, mode_outcome
from farthing.router.hidden import StatesOf
from farthing.router.label import Label
from farthing.router.labelled import Labelled
from farthing.router.labels_file import Costs, to_rows
from farthing.router.origin import Origin, chosen_part, prompt_hashes
from farthing.router.partial import train_with_partial
from farthing.router.scorers import MAX_ROWS, MIN_ROWS
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained

__all__ = ["Made", "calibrate_on", "evaluate_on", "rows_needed", "train_on"]

Labels = Mapping[str, Mapping[str, Label]]
TRAIN_PART = 0.5
CALIBRATE_PART = 0.6  # of what did not train; the rest is left for judging


@dataclass(frozen=True)
class Made:
    trained: Trained
    num_rows: int
    told: tuple[str, ...]  # what was left out, for people


def train_on(
    labels: Labels,
    part: float = TRAIN_PART,
    costs: Costs | None = None,
    models: Sequence[str] | None = None,
    *,
    has_partial: bool = False,
    states_of: StatesOf | None = None,
) -> Made:
    """has_partial: learn from prompts that lack a label, too. states_of: the first model's, for the check of its
    answers. Raises InvalidRequest, also for too few rows."""
    _check_part(part)
    rows, told = to_rows(labels, costs, models)
    chosen = rows.take(np.flatnonzero(chosen_part(rows.prompts, part, "train")))
    if len(chosen) < MIN_ROWS:
        raise InvalidRequest(
            f"{len(chosen)} of {len(rows)} labelled prompts are for training (--part {part:g}); at least {MIN_ROWS} "
            f"are needed, so about {MIN_ROWS / part:.0f} in the file; 1,500 are worth having"
        )
    if states_of is not None:
        chosen = replace(chosen, hidden=states_of(chosen.prompts))
    lines = [*told.lines, *_no_gap(chosen)]
    if has_partial:
        complete = set(rows.prompts)
        partial = {prompt: row for prompt, row in labels.items() if prompt not in complete}
        trained, others = train_with_partial(chosen, partial, part)
        lines = [
            *_no_gap(chosen),
            f"learned from {len(others):,} prompts with some of the labels, beside {len(chosen):,} with all",
        ]
    else:
        trained, others = train(chosen), ()
    num_rows = len(chosen) + len(others)
    if num_rows > MAX_ROWS:
        lines.append(f"learned from {MAX_ROWS:,} of {num_rows:,} rows, drawn by lot: more teach little")
    hashes = prompt_hashes((*chosen.prompts, *others))
    origin = Origin(hashes, unit="USD per request" if costs is None else costs.unit)
    return Made(replace(trained, origin=origin), num_rows, tuple(lines))


def calibrate_on(
    trained: Trained,
    labels: Labels,
    goal: Goal,
    mode: str,
    part: float = CALIBRATE_PART,
    costs: Costs | None = None,
    *,
    states_of: StatesOf | None = None,
) -> Made:
    """Thresholds for `mode` from rows that did not train it. states_of: as `train_on` had it. Raises InvalidRequest,
    also for too few rows."""
    _check_part(part)
    rows, told = _unseen(trained, labels, costs, trained.origin.trained, "trained it")
    chosen = rows.take(np.flatnonzero(chosen_part(rows.prompts, part, "calibrate")))
    if len(chosen) < MIN_ROWS:
        raise InvalidRequest(
            f"{len(chosen)} rows are left for calibration (--part {part:g} of {len(rows)} that did not train it); "
            f"at least {MIN_ROWS} are needed, some hundred are worth having"
        )
    if states_of is not None and trained.hidden is not None and mode == "cascade":
        chosen = replace(chosen, hidden=states_of(chosen.prompts))
    found = calibrate(trained, chosen, goal, mode)
    hashes = np.union1d(trained.origin.calibrated, prompt_hashes(chosen.prompts))
    lines = [*told, *_advice(found, chosen, goal, mode)]
    return Made(replace(found, origin=replace(trained.origin, calibrated=hashes)), len(chosen), tuple(lines))


def evaluate_on(
    trained: Trained,
    labels: Labels,
    costs: Costs | None = None,
    *,
    is_all: bool = False,
    states_of: StatesOf | None = None,
) -> tuple[Evaluation, tuple[str, ...]]:
    """On rows that neither trained nor calibrated it; is_all: on those that calibrated it too."""
    origin = trained.origin
    used, did = (origin.trained, "trained it") if is_all else (_both(origin), "trained or calibrated it")
    rows, told = _unseen(trained, labels, costs, used, did)
    if states_of is not None and trained.hidden is not None and rows.answers is not None:
        rows = replace(rows, hidden=states_of(rows.prompts))
    return evaluate(trained, rows), told


def rows_needed(trained: Trained, rows: Labelled, goal: Goal, mode: str) -> int | None:
    """About how many rows like these would prove a threshold that saves something; None: these show none that would.

    The walk of `prove`, by the normal distribution: it passes a candidate only where all before it are proven, too.
    """
    outcome = mode_outcome(trained, rows, mode)[0]
    z = NormalDist().inv_cdf(1 - goal.delta)
    prices = trained.prices[mode]
    needed = 0.0
    for price in prices if goal.kind != "cost" else reversed(prices):
        found = outcome(price)
        margin = _margin(goal, found)
        if goal.kind == "share" and price == float("-inf"):
            continue  # needs no proof, and saves nothing
        if margin.mean() <= 1e-9:
            return None
        needed = max(needed, (z * float(margin.std()) / float(margin.mean())) ** 2)
        if found.cost.mean() < 0.98 * rows.costs[-1]:
            return max(MIN_ROWS, round(1.5 * needed))  # exact tests ask for more than the normal one
    return None


def _margin(goal: Goal, found: Outcome) -> NDArray[np.float64]:
    if goal.kind == "cost":
        return np.asarray(goal.target - found.cost)
    return np.asarray(found.quality - goal.target * (found.best if goal.kind == "share" else 1.0))


def _advice(found: Trained, rows: Labelled, goal: Goal, mode: str) -> list[str]:
    """Where nothing was proven, or only what needs no proof."""
    price = found.proven[mode].price
    if price is not None and (price > float("-inf") or goal.kind == "cost"):
        return []
    what = "no threshold" if price is None else "nothing cheaper than always the dearest model"
    both = "a cascade that always asks the dearer model pays for both: until more is proven, ask that model alone"
    more = [both] if mode == "cascade" and price is not None else []
    needed = rows_needed(found, rows, goal, mode)
    if needed is None:
        return [f"{what} is proven: on these rows no threshold that saves keeps the goal; ask for less", *more]
    needed = max(needed, round(1.3 * len(rows)))  # these were not enough, whatever the normal distribution says
    return [f"{what} is proven on {len(rows):,} rows; about {needed:,} like these should do, or ask for less", *more]


def _no_gap(rows: Labelled) -> list[str]:
    """A word where a router cannot help, whatever it learns."""
    cheap, dear = float(rows.quality[:, 0].mean()), float(rows.quality[:, -1].mean())
    if dear > cheap:
        return []
    small, large = rows.models[0], rows.models[-1]
    return [f"{large} is no better than {small} on these rows ({dear:.1%} and {cheap:.1%}): always {small} is cheapest"]


def _unseen(
    trained: Trained, labels: Labels, costs: Costs | None, used: NDArray[np.int64], did: str
) -> tuple[Labelled, tuple[str, ...]]:
    rows, told = to_rows(labels, _costs(trained, labels, costs), trained.models, keeps_order=True)
    is_new = ~np.isin(prompt_hashes(rows.prompts), used)
    lines = list(told.lines)
    if not is_new.all():
        lines.append(f"{int((~is_new).sum()):,} of {len(rows):,} rows left out: they {did}")
    return rows.take(np.flatnonzero(is_new)), tuple(lines)


def _costs(trained: Trained, labels: Labels, given: Costs | None) -> Costs | None:
    """As given; otherwise what the rows say, where they do for every model; otherwise what the router was told."""
    origin = trained.origin
    if given is not None:
        if given.unit != origin.unit:
            raise InvalidRequest(f"--cost is in {given.unit}, the router's costs are in {origin.unit}; give the same")
        return given
    has_all = all(any(name in row and row[name].cost_pico is not None for row in labels.values())
                  for name in trained.models)  # fmt: skip
    if origin.unit == "USD per request" and has_all:
        return None
    return Costs(dict(zip(trained.models, trained.costs, strict=True)), origin.unit)


def _both(origin: Origin) -> NDArray[np.int64]:
    return np.union1d(origin.trained, origin.calibrated)


def _check_part(part: float) -> None:
    if not 0 < part <= 1:
        raise InvalidRequest(f"--part is {part:g}; allowed: above 0, at most 1 (all rows)")

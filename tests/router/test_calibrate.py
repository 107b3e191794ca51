"""Learn-then-Test: what is promised is kept, as often as it was promised."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.router_data import results_folder, routellm
from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal, prove
from farthing.router.curve import Checked, cascade_outcome, curve, route_outcome
from farthing.router.encode import encode_prompts
from farthing.router.labelled import Labelled
from farthing.router.policy import candidate_prices
from farthing.router.structure import prior
from farthing.router.train import train

DELTA = 0.1
NUM_SETS = 200
ALLOWED = DELTA + 3 * (DELTA * (1 - DELTA) / NUM_SETS) ** 0.5


def world(num_rows: int, seed: int) -> tuple[Labelled, np.ndarray]:
    """Rows, and a score of them that is right about the gap only so far."""
    rng = np.random.default_rng(seed)
    need = rng.random(num_rows)
    quality = np.stack([rng.random(num_rows) > need, rng.random(num_rows) < 0.85], axis=1).astype(float)
    gap = 0.85 - (1 - need) + 0.2 * rng.standard_normal(num_rows)
    return Labelled(("small", "large"), (1.0, 40.0), ("",) * num_rows, quality), np.stack(
        [np.zeros(num_rows), gap], axis=1
    )


def failures(
    rows: Labelled, quality: np.ndarray, goal: Goal, num_rows: int, is_cascade: bool = False
) -> tuple[float, float]:
    """How often the target is missed on all rows, over sets of `num_rows` drawn with replacement, and how often a
    threshold was found at all. Candidates come from the scores of all rows, never from their labels."""
    rng = np.random.default_rng(0)
    prices = candidate_prices((quality[:, 1] - quality[:, 0]) / (rows.costs[1] - (0 if is_cascade else rows.costs[0])))

    def outcome_of(part: Labelled, scores: np.ndarray):
        checked = {0: Checked(1 - scores[:, 1], (1.0,))}
        return cascade_outcome(part, checked) if is_cascade else route_outcome(part, scores)

    whole = outcome_of(rows, quality)
    wanted = goal.target * rows.quality[:, 1].mean() if goal.kind == "share" else goal.target
    num_missed = num_found = 0
    for _ in range(NUM_SETS):
        drawn = rng.integers(0, len(rows), num_rows)
        found = prove(goal, prices, outcome_of(rows.take(drawn), quality[drawn]))
        if found.price is None:
            continue
        num_found += 1
        true = whole(found.price)
        is_missed = true.cost.mean() > wanted + 1e-12 if goal.kind == "cost" else true.quality.mean() < wanted - 1e-12
        num_missed += bool(is_missed)
    return num_missed / NUM_SETS, num_found / NUM_SETS


@pytest.mark.parametrize("is_cascade", [False, True])
@pytest.mark.parametrize(
    ("goal", "num_rows"),
    [
        (Goal("quality", 0.75, DELTA), 300),
        (Goal("quality", 0.82, DELTA), 60),
        (Goal("share", 0.9, DELTA), 300),
        (Goal("cost", 15.0, DELTA), 300),
    ],
)
def test_a_target_is_missed_no_more_often_than_delta(goal: Goal, num_rows: int, is_cascade: bool) -> None:
    rows, quality = world(3_000, seed=3)
    missed, _ = failures(rows, quality, goal, num_rows, is_cascade)
    assert missed <= ALLOWED


@pytest.mark.parametrize("name", ["mmlu", "gsm8k"])
@pytest.mark.parametrize("goal", [Goal("share", 0.95, DELTA), Goal("quality", 0.76, DELTA), Goal("cost", 12.0, DELTA)])
def test_the_bound_holds_on_routellms_results(name: str, goal: Goal) -> None:
    folder: Path | None = results_folder()
    if folder is None:
        pytest.skip("FARTHING_DATA is not set: no RouteLLM results")
    rows = routellm(name, folder).rows.take(
        np.arange(0, 14_037 if name == "mmlu" else 1_307, 6 if name == "mmlu" else 1)
    )
    scores = prior(encode_prompts(rows.prompts).forms["form"])
    missed, found = failures(rows, np.stack([np.zeros(len(rows)), scores], axis=1), goal, 600)
    assert missed <= ALLOWED
    assert found > 0.8


def test_the_bound_holds_for_a_trained_cascade_on_gsm8k() -> None:
    folder = results_folder()
    if folder is None:
        pytest.skip("FARTHING_DATA is not set: no RouteLLM results")
    rows = routellm("gsm8k", folder).rows
    order = np.random.default_rng(0).permutation(len(rows))
    trained, rest = train(rows.take(order[:400])), rows.take(order[400:])
    p_right = trained.p_right(rest.prompts, rest.answers)
    scores = np.stack([np.zeros(len(rest)), 1 - p_right], axis=1)
    missed, found = failures(rest, scores, Goal("share", 0.95, DELTA), 500, is_cascade=True)
    assert missed <= ALLOWED
    assert found == 1.0


def test_more_rows_prove_more() -> None:
    rows, quality = world(4_000, seed=5)
    prices = candidate_prices((quality[:, 1] - quality[:, 0]) / 39)
    costs = []
    for num in (50, 400, 4_000):
        part = rows.take(np.arange(num))
        found = prove(Goal("share", 0.9, DELTA), prices, route_outcome(part, quality[:num]))
        costs.append(found.cost if found.price is not None else rows.costs[1])
    assert costs[0] >= costs[1] > costs[2]


def test_what_cannot_be_proven_is_not_promised() -> None:
    rows, quality = world(100, seed=1)
    found = prove(Goal("quality", 0.99, DELTA), candidate_prices(quality[:, 1]), route_outcome(rows, quality))
    assert found.price is None
    assert found.p_value > DELTA


def test_the_dearest_model_needs_no_proof_to_be_as_good_as_itself() -> None:
    rows, quality = world(30, seed=1)
    found = prove(Goal("share", 0.999, DELTA), candidate_prices(quality[:, 1] / 39), route_outcome(rows, quality))
    assert (found.price, found.p_value) == (float("-inf"), 0.0)


def test_a_budget_above_the_dearest_policy_needs_no_proof_and_one_below_the_cheapest_has_none() -> None:
    rows, quality = world(100, seed=1)
    prices = candidate_prices(quality[:, 1] / 39)
    assert prove(Goal("cost", 40.0), prices, route_outcome(rows, quality)).price == float("-inf")
    assert prove(Goal("cost", 0.5), prices, route_outcome(rows, quality)).price is None


def test_a_cascade_pays_for_the_small_answer_that_it_throws_away() -> None:
    rows, quality = world(50, seed=2)
    always = cascade_outcome(rows, {0: Checked(1 - quality[:, 1], (1.0,))})(float("-inf"))
    assert set(always.cost) == {41.0}
    assert set(route_outcome(rows, quality)(float("-inf")).cost) == {40.0}


def test_the_curve_runs_from_the_dearest_to_the_cheapest() -> None:
    rows, quality = world(1_000, seed=2)
    points = curve(rows, route_outcome(rows, quality), candidate_prices(quality[:, 1] / 39))
    assert (points[0].share, points[-1].share) == (1.0, 0.0)
    assert all(first.cost >= second.cost for first, second in pairwise(points))
    assert all(point.low <= point.quality <= point.high for point in points)
    assert np.mean([point.quality - point.random for point in points]) > 0.02


@pytest.mark.parametrize(
    ("kind", "target", "delta", "match"),
    [
        ("quality", 1.0, 0.1, "target quality is 1.0"),
        ("cost", 0.0, 0.1, "target cost"),
        ("share", 0.9, 1.0, "delta is 1.0"),
    ],
)
def test_goals_that_mean_nothing_are_refused(kind, target: float, delta: float, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        Goal(kind, target, delta)

"""The table's figures: paired tests, divergence, and a cascade that is never dearer than its last stage needs to be."""

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from farthing.cli._distill import _cells
from farthing.distill.cascade import Stage, serve
from farthing.distill.measure import LINEAR, Rows, choose_point, choose_points, measured_cascade, results, together
from farthing.distill.result import Cost, Paired, Result, divergence, quality, result_document, times_cheaper
from farthing.distill.timing import interleaved, medians
from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest

COSTS: Mapping[str, Cost] = {"teacher": Cost(2.4e-3, 14, 100), "student": Cost(4e-4, 14, 20), LINEAR: Cost(4e-5, 0, 5)}
CHAIN = (LINEAR, "student", "teacher")


def said(labels: np.ndarray, accuracy: float, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities of five labels; surer where they are right."""
    wrong = rng.random(len(labels)) >= accuracy
    scores = rng.standard_normal((len(labels), 5)) * 0.5
    scores[np.arange(len(labels)), np.where(wrong, (labels + 1) % 5, labels)] += np.where(wrong, 1.2, 4)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)), np.float32)


def rows(num: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, num)
    accuracies = {"teacher": 0.95, "student": 0.92, LINEAR: 0.88}
    return Rows(labels, {name: said(labels, share, rng) for name, share in accuracies.items()})


def cascade(chosen_on: Rows, measured: Rows, names: tuple[str, ...] = CHAIN, *, is_best: bool = False) -> Result:
    """Chosen on some rows, measured on others, at the cost that it had where it was chosen."""
    chosen = choose_point(chosen_on, {name: COSTS[name].seconds for name in names}, names, is_best=is_best)
    return measured_cascade(chosen, measured, Cost(chosen.seconds, 0, 0), names, is_best=is_best)


def test_the_cascade_is_as_good_as_the_teacher_and_cheaper() -> None:
    chosen_on, measured = rows(800, 0), rows(3000, 1)
    alone = {result.name: result for result in results(measured, COSTS, "teacher")}
    chain = cascade(chosen_on, measured)
    assert chain.quality.accuracy >= alone["teacher"].quality.accuracy - 0.01
    assert chain.cost.seconds < COSTS["teacher"].seconds / 3
    assert sum(chain.shares) == pytest.approx(1)
    best = cascade(chosen_on, measured, is_best=True)
    assert best.quality.accuracy > chain.quality.accuracy
    assert chain.cost.seconds < best.cost.seconds < COSTS["teacher"].seconds
    both = together(chosen_on, measured, COSTS, CHAIN[:2])
    assert both.quality.accuracy > max(alone[name].quality.accuracy for name in CHAIN[:2])
    assert both.cost.seconds == pytest.approx(4.4e-4)


def test_thresholds_hold_on_other_rows_too() -> None:
    """The cheapest that were just as good on the rows that chose would be worse than the teacher about every second
    time."""
    worse = 0
    for seed in range(10):
        measured = rows(4000, 100 + seed)
        chain = cascade(rows(400, seed), measured)
        teacher = next(result for result in results(measured, COSTS, "teacher") if result.name == "teacher")
        worse += chain.quality.accuracy < teacher.quality.accuracy
        assert chain.cost.seconds < COSTS["teacher"].seconds / 2
    assert worse <= 1


def test_the_cheapest_is_never_dearer_than_the_best() -> None:
    """With few rows to choose by, being sure takes more of the last stage than being best."""
    seconds, are_same = {name: COSTS[name].seconds for name in CHAIN}, set()
    for seed in range(8):
        chosen_on = rows(40, seed)
        cheapest, best = choose_points(chosen_on, seconds, CHAIN)
        assert cheapest.seconds <= best.seconds
        alone = choose_point(chosen_on, seconds, CHAIN)
        assert cheapest in (alone, best)
        are_same.add(alone.seconds > best.seconds)
    assert are_same == {True, False}


def test_thresholds_are_chosen_on_other_rows_than_the_measured() -> None:
    chosen_on, measured = rows(300, 0), rows(300, 1)
    thresholds = cascade(chosen_on, measured).thresholds
    assert cascade(chosen_on, rows(500, 2)).thresholds == thresholds


def test_a_row_of_the_table() -> None:
    measured = rows(2000, 3)
    found = {result.name: result for result in results(measured, COSTS, "teacher")}
    assert found["teacher"].quality.kl is None
    assert found["student"].quality.kl == pytest.approx(divergence(measured.logs["teacher"], measured.logs["student"]))
    against = found["student"].against_linear
    assert against is not None
    assert against.is_first_better
    document = result_document(found["student"], HostCost(Decimal("0.0765")))
    assert Decimal(str(document["usd_per_million_requests"])) == Decimal("0.0085")
    assert document["requests_per_s"] == pytest.approx(2500)
    assert document["tokens_per_s"] == pytest.approx(35_000)
    assert "against_linear" not in result_document(found[LINEAR], HostCost())


def test_divergence_of_a_distribution_from_itself_is_nothing() -> None:
    logs = rows(50, 0).logs
    assert divergence(logs["teacher"], logs["teacher"]) == 0
    assert divergence(logs["teacher"], logs["student"]) > 0


def test_a_lead_by_chance_is_no_lead() -> None:
    assert not Paired(12, 8).is_first_better
    assert Paired(40, 12).is_first_better
    assert not Paired(12, 40).is_first_better
    assert [Paired(*lead).verdict for lead in ((12, 8), (8, 12), (40, 12))] == [*["not surely better"] * 2, "better"]


def test_a_model_that_is_surely_worse_is_told_so() -> None:
    """Its p is small because the linear model leads."""
    found = Result(
        "teacher", quality(np.zeros((1, 2), np.float32), np.zeros(1, np.int64)), COSTS["teacher"], Paired(12, 40)
    )
    document = result_document(found, HostCost())
    assert str(document["quality"]).startswith("worse than the linear model (p ")
    assert "worse than the linear model (p " in _cells(document, None)[-1]


def test_equal_models_have_no_lead() -> None:
    assert Paired(0, 0).p_value == 1


def test_nothing_to_measure_on_is_told() -> None:
    with pytest.raises(InvalidRequest, match="no held-out row"):
        quality(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))


def test_rounds_are_interleaved_and_the_median_is_taken() -> None:
    order: list[str] = []
    now = 0.0
    takes = {"a": iter([100.0, 3, 1, 2]), "b": iter([100.0, 30, 20, 90])}

    def run(name: str) -> None:
        nonlocal now
        order.append(name)
        now += next(takes[name])

    rounds = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, 3, clock=lambda: now)
    found = medians(rounds)
    assert order == ["a", "b"] * 4
    assert found == {"a": 2, "b": 30}  # the first round warms up
    assert rounds["b"] == (30, 20, 90)


def test_a_ratio_of_costs_is_the_median_of_the_rounds_own() -> None:
    base = {"seconds_per_request": 2, "seconds_per_request_by_round": (2, 8, 1)}
    row = {"seconds_per_request": 1, "seconds_per_request_by_round": (1, 2, 1)}
    assert times_cheaper(base, row) == (2, 1, 4)
    assert times_cheaper({"seconds_per_request": 6}, row) == (6, 3, 6)  # one pass alone


def test_who_is_heard_is_paid_though_it_answers_nothing() -> None:
    """With an infinite threshold the linear model keeps no row, but its words are in the student's answers."""
    labels = np.zeros(2, np.int64)
    logs = np.log(np.array([[[0.9, 0.1]] * 2, [[0.45, 0.55]] * 2]))
    stages = [Stage("a", labels == 1, logs[0].max(axis=1), np.ones(2), np.ones(2), is_heard=True),
              Stage("b", labels == 0, logs[1].max(axis=1), np.full(2, 10.0), np.full(2, 10.0))]  # fmt: skip
    heard = serve(stages, [np.inf])
    assert (heard.usd.tolist(), heard.shares, heard.asked) == ([11, 11], (0, 1), (1, 1))
    unheard = serve([replace(stages[0], is_heard=False), stages[1]], [np.inf])
    assert (unheard.usd.tolist(), unheard.asked) == ([10, 10], (0, 1))


def test_a_linear_model_that_is_always_wrong_alone_still_costs() -> None:
    """It says which two labels it may be, never the right one of them; the student knows which of the two."""
    labels = np.arange(40) % 4
    linear, student = np.full((40, 4), 0.01), np.full((40, 4), 0.01)
    rows_ = np.arange(40)
    linear[rows_, labels], linear[rows_, labels ^ 1] = 0.4, 0.5
    student[rows_, labels], student[rows_, labels ^ 2] = 0.5, 0.6
    logs = [np.log(x / x.sum(axis=1, keepdims=True)).astype(np.float32) for x in (linear, student)]
    measured = Rows(labels, {LINEAR: logs[0], "student": logs[1]})
    found = cascade(measured, measured, (LINEAR, "student"), is_best=True)
    assert found.quality.accuracy == 1
    assert found.shares == (0, 1)
    assert found.weights == ((), (0.5,))
    assert found.cost.seconds == pytest.approx(COSTS[LINEAR].seconds + COSTS["student"].seconds)


def test_what_is_written_is_json() -> None:
    """A stage that keeps nothing has an infinite threshold, which JSON has no number for."""
    found = Result("chain", quality(np.zeros((1, 2), np.float32), np.zeros(1, np.int64)), COSTS[LINEAR],
                   shares=(0.0, 1.0), thresholds=(np.inf,), weights=((), (0.3,)))  # fmt: skip
    document = json.loads(json.dumps(result_document(found, HostCost()), allow_nan=False))
    assert (document["thresholds"], document["weights"]) == ([None], [[], [0.3]])


def test_rounds_of_two_together_are_sums_of_their_rounds() -> None:
    costs = {name: replace(cost, rounds=(cost.seconds, 3 * cost.seconds)) for name, cost in COSTS.items()}
    both = together(rows(200, 0), rows(300, 1), costs, CHAIN[:2])
    assert both.cost.rounds == pytest.approx((4.4e-4, 3 * 4.4e-4))

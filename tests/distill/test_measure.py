"""The table's figures: paired tests, divergence, and a cascade that is never dearer than its last stage needs to be."""

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pytest

from farthing.distill.measure import LINEAR, Rows, cascade, results, together
from farthing.distill.result import Cost, Paired, divergence, quality, result_document
from farthing.distill.timing import interleaved
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


def test_the_cascade_is_as_good_as_the_teacher_and_cheaper() -> None:
    chosen_on, measured = rows(800, 0), rows(3000, 1)
    alone = {result.name: result for result in results(measured, COSTS, "teacher")}
    chain = cascade(chosen_on, measured, COSTS, CHAIN)
    assert chain.quality.accuracy >= alone["teacher"].quality.accuracy - 0.01
    assert chain.cost.seconds < COSTS["teacher"].seconds / 3
    assert sum(chain.shares) == pytest.approx(1)
    best = cascade(chosen_on, measured, COSTS, CHAIN, is_best=True)
    assert best.quality.accuracy > chain.quality.accuracy
    assert chain.cost.seconds < best.cost.seconds < COSTS["teacher"].seconds
    both = together(chosen_on, measured, COSTS, CHAIN[:2])
    assert both.quality.accuracy > max(alone[name].quality.accuracy for name in CHAIN[:2])
    assert both.cost.seconds == pytest.approx(4.4e-4)


def test_thresholds_are_chosen_on_other_rows_than_the_measured() -> None:
    chosen_on, measured = rows(300, 0), rows(300, 1)
    thresholds = cascade(chosen_on, measured, COSTS, CHAIN).thresholds
    assert cascade(chosen_on, rows(500, 2), COSTS, CHAIN).thresholds == thresholds


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

    found = interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, 3, clock=lambda: now)
    assert order == ["a", "b"] * 4
    assert found == {"a": 2, "b": 30}  # the first round warms up

"""Scores made into probabilities."""

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.probability import fit_isotonic, fit_platt, reliability


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(4_000) * 0.3 + 0.5
    chance = 1 / (1 + np.exp(-(6 * scores - 3)))
    return scores, (rng.random(4_000) < chance).astype(float)


def test_platt_finds_the_curve(seen) -> None:
    found = fit_platt(*seen)
    assert found.slope == pytest.approx(6, rel=0.1)
    assert found.offset == pytest.approx(-3, rel=0.1)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_probabilities_are_what_happens(fit, seen) -> None:
    scores, outcomes = seen
    found = fit(scores[:2_000], outcomes[:2_000])
    measured = reliability(found(scores[2_000:]), outcomes[2_000:])
    assert measured.error < 0.04
    assert measured.brier < reliability(np.full(2_000, outcomes.mean()), outcomes[2_000:]).brier
    np.testing.assert_allclose(measured.predicted, measured.observed, atol=0.12)


def test_isotonic_steps_rise_and_keep_the_mean() -> None:
    found = fit_isotonic(np.array([1.0, 2, 3, 4, 5]), np.array([0.0, 1, 0, 1, 1]))
    np.testing.assert_allclose(found(np.array([0.0, 1, 2, 3, 4, 9])), [0, 0, 0.5, 0.5, 1, 1])


@pytest.mark.parametrize("outcomes", [np.ones(30), np.zeros(30)])
def test_one_sided_outcomes_are_not_certain(outcomes: np.ndarray) -> None:
    chance = fit_platt(np.linspace(0, 1, 30), outcomes)(np.array([0.5]))[0]
    assert 0.001 < chance < 0.999
    assert abs(chance - outcomes[0]) < 0.1


def test_equal_scores_are_no_error() -> None:
    assert fit_platt(np.ones(10), np.array([1.0] * 5 + [0] * 5))(np.ones(1))[0] == pytest.approx(0.5)
    assert fit_isotonic(np.ones(10), np.array([1.0] * 5 + [0] * 5))(np.ones(1))[0] == pytest.approx(0.5)


def test_scores_without_outcomes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="one finite score each"):
        fit_platt(np.ones(3), np.ones(2))
    with pytest.raises(InvalidRequest, match="one finite score each"):
        fit_isotonic(np.array([np.nan, 1.0]), np.ones(2))

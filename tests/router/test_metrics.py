"""Curves and their figures, against values worked by hand."""

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.metrics import Pair, apgr, bootstrap, cost_at_quality, cpt, routellm_scores, share_at_quality

PAIR = Pair(np.array([0.0, 1, 0, 1]), np.array([1.0, 1, 1, 0]))  # gaps 1, 0, 1, -1
SCORES = np.array([4.0, 3, 2, 1])


def test_the_curve_and_its_area() -> None:
    np.testing.assert_allclose(PAIR.quality(SCORES), [0.5, 0.75, 0.75, 1.0, 0.75])
    np.testing.assert_allclose(PAIR.recovered(SCORES), [0, 1, 1, 2, 1])
    assert apgr(SCORES, PAIR) == pytest.approx((0.5 + 1 + 1.5 + 1.5) / 4)


def test_shares_and_costs() -> None:
    assert cpt(SCORES, PAIR, 1.0) == 0.25
    assert share_at_quality(SCORES, PAIR, 0.9) == 0.75
    assert share_at_quality(SCORES, PAIR, 1.1) == 1.0
    assert cost_at_quality(SCORES, PAIR, 0.9, (1.0, 10.0), is_cascade=False) == pytest.approx(7.75)
    assert cost_at_quality(SCORES, PAIR, 0.9, (1.0, 10.0), is_cascade=True) == pytest.approx(8.5)


def test_equal_scores_share_alike_in_whatever_order() -> None:
    flat = np.zeros(4)
    np.testing.assert_allclose(PAIR.recovered(flat), np.linspace(0, 1, 5))
    assert apgr(flat, PAIR) == pytest.approx(0.5)


def test_the_oracle_is_the_best_and_random_a_half() -> None:
    rng = np.random.default_rng(0)
    pair = Pair(rng.integers(0, 2, 4_000).astype(float), (rng.random(4_000) < 0.8).astype(float))
    assert apgr(rng.random(4_000), pair) == pytest.approx(0.5, abs=0.1)
    assert apgr(pair.oracle, pair) > 1


def test_routellms_convention_joins_deciles_by_lines() -> None:
    rng = np.random.default_rng(0)
    gap = rng.random(1_000) < 0.4
    pair = Pair((~gap).astype(float), np.ones(1_000))
    scores = gap + rng.random(1_000)
    area, half, most = routellm_scores(scores, pair)
    assert area == pytest.approx(apgr(scores, pair), abs=0.02)
    assert half == pytest.approx(cpt(scores, pair, 0.5), abs=0.03)
    assert most == pytest.approx(cpt(scores, pair, 0.8), abs=0.03)
    assert routellm_scores(np.arange(1_000.0), Pair(np.zeros(1_000), np.ones(1_000)))[0] == pytest.approx(0.5)


def test_an_interval_holds_the_value_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.random(50), rng.random(5_000)
    widths = []
    for values in (few, many):
        found = bootstrap(lambda rows, values=values: float(values[rows].mean()), len(values), rng)
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3


def test_no_gap_and_no_rows_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="no gap"):
        apgr(SCORES, Pair(PAIR.small, PAIR.small))
    with pytest.raises(InvalidRequest, match="one each per prompt"):
        Pair(np.ones(3), np.ones(2))

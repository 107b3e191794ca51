"""Laws of routing: what holds for every expression, every set of qualities, every price and every file."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.models.grams import grams
from farthing.router.arithmetic import evaluate
from farthing.router.checks import CHECK_NAMES, checks
from farthing.router.metrics import Pair, apgr, cpt
from farthing.router.policy import choose, spent
from farthing.router.probability import fit_isotonic
from farthing.router.pvalues import betting_p, binomial_p, hoeffding_bentkus_p
from farthing.router.structure import structure

units = st.floats(0, 1, allow_nan=False)
flags = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40)
expressions = st.recursive(
    st.integers(0, 99).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=12,
)


@given(expressions)
@settings(max_examples=300, deadline=None)
def test_arithmetic_is_that_of_the_language(expression: str) -> None:
    try:
        expected = float(eval(expression))  # made above of digits and signs alone
    except ZeroDivisionError:
        expected = None
    found = evaluate(expression)
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=200, deadline=None)
def test_every_text_can_be_read(prompt: str, answer: str) -> None:
    assert np.isfinite(structure(prompt)).all()
    found = checks(prompt, answer)
    assert np.isfinite(found).all()
    assert len(found) == len(CHECK_NAMES)
    assert all((np.diff(buckets) > 0).all() for buckets in grams(prompt).values())


@given(flags)
@settings(max_examples=200, deadline=None)
def test_turning_a_score_round_turns_its_area_round(rows: list[tuple[bool, bool, int]]) -> None:
    small, large, scores = (np.array(column, float) for column in zip(*rows, strict=True))
    if abs((large - small).mean()) < 1e-9:
        return
    pair = Pair(small, large)
    np.testing.assert_allclose(apgr(scores, pair) + apgr(-scores, pair), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(apgr(scores[order], pair.take(order)), apgr(scores, pair), atol=1e-6)
    assert 0 <= cpt(scores, pair, 0.5) <= cpt(scores, pair, 0.9) <= 1 or (large - small).mean() < 0


@given(
    st.lists(st.tuples(units, units, units), min_size=1, max_size=30),
    st.lists(st.floats(-3, 3), min_size=2, max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_a_higher_price_never_spends_more(quality: list[tuple[float, ...]], prices: list[float]) -> None:
    costs = np.array([1.0, 3.0, 30.0])
    totals = [
        spent(choose(np.array(quality), costs, p), costs).sum() for p in (-np.inf, *sorted(prices), np.inf)
    ]
    assert all(first >= second for first, second in pairwise(totals))
    assert (totals[0], totals[-1]) == (30 * len(quality), len(quality))


@given(st.lists(st.tuples(units, units), min_size=2, max_size=60))
@settings(max_examples=200, deadline=None)
def test_isotonic_steps_rise_and_keep_the_mean(points: list[tuple[float, float]]) -> None:
    scores, outcomes = (np.array(column) for column in zip(*points, strict=True))
    fitted = fit_isotonic(scores, outcomes)(np.sort(scores))
    assert (np.diff(fitted) >= -1e-12).all()
    np.testing.assert_allclose(fitted.mean(), outcomes.mean(), atol=1e-9)


@given(st.integers(1, 60), st.data(), st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_more_right_answers_prove_more(num_rows: int, data: st.DataObject, floor: float) -> None:
    right = data.draw(st.integers(0, num_rows - 1))
    assert binomial_p(right + 1, num_rows, floor) <= binomial_p(right, num_rows, floor) + 1e-12
    values = np.array([1.0] * right + [0.0] * (num_rows - right))
    assert hoeffding_bentkus_p(values, floor) >= binomial_p(right, num_rows, floor) - 1e-9
    for p in (binomial_p(right, num_rows, floor), hoeffding_bentkus_p(values, floor), betting_p(values, floor)):
        assert 0 <= p <= 1

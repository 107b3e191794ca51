"""Intervals and the paired test against their definitions, and against rows drawn by chance."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.report.compare_stats import POWER, mcnemar, paired_interval, rows_needed, wilson


def test_wilson_is_what_textbooks_print():
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)  # Newcombe 1998, table I
    assert wilson(0, 20)[0] == 0.0
    assert round(wilson(0, 20)[1], 4) == 0.1611
    assert wilson(29, 29)[1] == 1.0


@given(st.integers(0, 300), st.integers(0, 300))
def test_wilson_holds_the_share(right, wrong):
    low, high = wilson(right, right + wrong)
    share = right / (right + wrong) if right + wrong else 0.5
    assert 0 <= low <= share <= high <= 1


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail(only_best, only_other):
    num = only_best + only_other
    exact = sum(comb(num, k) for k in range(only_best, num + 1)) / 2**num
    assert mcnemar(only_best, only_other) == pytest.approx(exact, rel=1e-9)


def test_mcnemar_keeps_its_promise_and_rows_needed_its_power():
    rng = np.random.default_rng(0)
    equal = rng.binomial(100, 0.5, 2000)
    assert np.mean([mcnemar(int(b), 100 - int(b)) < 0.05 for b in equal]) <= 0.06
    # A lead of 4 points, 12 % of the rows differ: 16 against 8 in 200.
    num_rows = rows_needed(16, 8, 200, 0.05)
    assert num_rows is not None
    found = 0
    for _ in range(500):
        best, other, _ = rng.multinomial(num_rows, [0.08, 0.04, 0.88])
        found += mcnemar(int(best), int(other)) < 0.05
    assert POWER - 0.08 <= found / 500 <= POWER + 0.08


def test_what_does_not_lead_needs_no_rows():
    assert rows_needed(5, 5, 100, 0.05) is None
    assert rows_needed(4, 5, 100, 0.05) is None


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 100))
def test_the_leads_interval_holds_it_nearly(only_best, only_other, same):
    num_rows = only_best + only_other + same
    low, high = paired_interval(only_best, only_other, num_rows)
    assert -1 <= low <= (only_best - only_other) / (num_rows + 2) <= high <= 1


def test_large_counts_are_no_trouble():
    assert mcnemar(50_500, 49_500) == pytest.approx(0.000789, rel=0.02)

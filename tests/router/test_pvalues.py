"""p-values that hold at any number of rows."""

from math import comb

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.pvalues import betting_p, binomial_p, hoeffding_bentkus_p, mean_above_p


@pytest.mark.parametrize(("right", "rows", "floor"), [(9, 10, 0.7), (0, 5, 0.5), (5, 5, 0.9), (300, 400, 0.7)])
def test_the_binomial_tail_is_exact(right: int, rows: int, floor: float) -> None:
    tail = sum(comb(rows, k) * floor**k * (1 - floor) ** (rows - k) for k in range(right, rows + 1))
    assert binomial_p(right, rows, floor) == pytest.approx(tail)


@pytest.mark.parametrize("test", [betting_p, hoeffding_bentkus_p])
@pytest.mark.parametrize("spread", [0.05, 0.5])
def test_a_mean_at_the_floor_is_rarely_called_higher(test, spread: float) -> None:
    rng = np.random.default_rng(0)
    draws = [np.clip(0.5 + spread * rng.choice([-1, 1], 150), 0, 1) for _ in range(600)]
    false_alarms = np.mean([test(values, 0.5) <= 0.1 for values in draws])
    assert false_alarms <= 0.1 + 3 * (0.1 * 0.9 / 600) ** 0.5


def test_bets_need_fewer_rows_where_values_hardly_vary() -> None:
    values = np.clip(0.53 + 0.05 * np.random.default_rng(1).standard_normal(300), 0, 1)
    assert betting_p(values, 0.5) < 1e-3
    assert hoeffding_bentkus_p(values, 0.5) > 0.1


def test_zeros_and_ones_get_the_exact_test() -> None:
    values = np.array([1.0] * 18 + [0.0] * 2)
    assert mean_above_p(values, 0.7) == binomial_p(18, 20, 0.7)
    assert mean_above_p(values * 0.9, 0.7) == betting_p(values * 0.9, 0.7)


@pytest.mark.parametrize("test", [betting_p, hoeffding_bentkus_p, mean_above_p])
def test_floors_at_and_beyond_the_ends(test) -> None:
    values = np.array([0.5, 1.0, 0.25])
    assert test(values, 1.0) == 1.0
    assert test(values, 1.5) == 1.0
    assert test(values, -0.1) == 0.0


@pytest.mark.parametrize("values", [[], [0.5, 1.1], [-0.1], [np.nan]])
def test_values_outside_of_the_range_are_refused(values: list[float]) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 1"):
        mean_above_p(np.array(values), 0.5)

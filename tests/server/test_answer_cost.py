"""What clients are told of money: exact to the last pico-dollar, and never 0 for what is not known."""

from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.economics.charge import usd
from farthing.economics.usage import Usage
from farthing.server.answer_cost import costs_pico, costs_usd, usd_text
from farthing.upstreams import Receipt


def receipt(cost_pico: int | None, baseline_pico: int | None = 5) -> Receipt:
    return Receipt("up", "m", Usage(), "provider", cost_pico, baseline_pico, "ok")


@given(st.integers(-(10**27), 10**27))
def test_the_digits_are_those_of_the_amount(amount_pico: int) -> None:
    assert Decimal(usd_text(amount_pico)) == usd(amount_pico)


@given(st.integers(0, 10**30))
def test_a_cost_in_json_is_a_number_with_the_same_digits(amount_pico: int) -> None:
    text = orjson.dumps(costs_usd([receipt(amount_pico)])).decode()
    assert text == f'{{"cost_usd":{usd_text(amount_pico)},"baseline_cost_usd":0.000000000005}}'


@pytest.mark.parametrize(
    ("amount_pico", "text"), [(0, "0"), (1, "0.000000000001"), (10**12, "1"), (10**13, "10"), (-1, "-0.000000000001")]
)
def test_there_are_neither_exponents_nor_zeros_at_the_end(amount_pico: int, text: str) -> None:
    assert usd_text(amount_pico) == text


def test_all_attempts_are_paid_and_the_last_ones_baseline_counts() -> None:
    assert costs_pico([receipt(1, 7), receipt(2, 9)]) == (3, 9)


def test_one_price_that_is_not_known_makes_the_sum_unknown() -> None:
    assert costs_pico([receipt(None, 7), receipt(2, 9)]) == (None, 9)
    assert costs_pico([]) == (None, None)
    assert orjson.dumps(costs_usd([receipt(None, None)])) == b'{"cost_usd":null,"baseline_cost_usd":null}'

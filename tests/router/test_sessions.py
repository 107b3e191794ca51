"""The arithmetic of staying and moving, and a memory that does not grow."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.economics.usage import Usage
from farthing.router.sessions import Seat, Sessions, moving_ratio
from tests.upstreams.test_fallback import Clock

AMOUNTS = st.integers(1, 10**6)


def priced(per_token: int, share_cached: int = 100):
    """Pico-dollars; a cached token costs that many hundredths."""

    def price(used: Usage) -> int:
        fresh = used.input_tokens - used.cache_read_tokens
        return 100 * per_token * fresh + share_cached * per_token * used.cache_read_tokens

    return price


@given(AMOUNTS, AMOUNTS, st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 100))
def test_moving_is_cheaper_exactly_where_the_formula_says(
    prefix: int, new: int, small: int, large: int, cached: int
) -> None:
    ratio = moving_ratio(Seat(1, prefix), prefix + new, priced(large, cached), priced(small))
    assert ratio is not None
    assert (ratio < 1) == (100 * small * (prefix + new) < large * (cached * prefix + 100 * new))


@given(AMOUNTS, AMOUNTS, st.floats(0, 1))
def test_who_may_have_to_come_back_moves_less(prefix: int, new: int, chance: float) -> None:
    plain = moving_ratio(Seat(1, prefix), prefix + new, priced(10, 10), priced(1))
    back = moving_ratio(Seat(1, prefix), prefix + new, priced(10, 10), priced(1), chance)
    assert plain is not None
    assert back == pytest.approx(plain + chance)


def test_a_price_that_nobody_knows_moves_nobody() -> None:
    assert moving_ratio(Seat(1, 10), 20, priced(1), lambda _: None) is None
    assert moving_ratio(Seat(1, 10), 20, lambda _: None, priced(1)) is None
    assert moving_ratio(Seat(1, 10), 20, lambda _: 0, priced(1)) == inf
    assert moving_ratio(Seat(1, 10), 20, lambda _: 0, lambda _: 0) == 1.0


def test_what_is_old_or_too_much_is_forgotten() -> None:
    clock = Clock()
    sessions = Sessions(10.0, 3, clock)
    for number in range(5):
        clock.now_s = float(number)
        sessions.put(bytes([number]), Seat(number, 1))
    assert [sessions.get(bytes([number])) for number in range(5)] == [None, None, Seat(2, 1), Seat(3, 1), Seat(4, 1)]
    assert sessions.get(None) is None
    sessions.put(None, Seat(0, 1))
    clock.now_s = 13.5
    assert sessions.get(bytes([3])) is None
    sessions.put(b"new", Seat(1, 1))
    assert len(sessions) == 2

"""The budget is never exceeded, and on small cases nothing better exists."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.quant.allocate import MAX_TOTALS, Option, allocate

option = st.builds(Option, st.sampled_from(["q4", "q3", "q2"]), st.integers(1, 200), st.floats(0, 10))
names = st.text("abcdef", min_size=1, max_size=3)
tables = st.dictionaries(names, st.lists(option, min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=200)
@given(tables, st.floats(0, 1))
def test_equals_trying_everything(options: dict[str, list[Option]], share: float) -> None:
    least, most = (sum(f(o.num_bytes for o in choices) for choices in options.values()) for f in (min, max))
    budget = 8 * (least + share * (most - least))
    chosen = allocate(options, budget)
    assert list(chosen) == list(options)
    assert all(chosen[name] in choices for name, choices in options.items())
    assert 8 * sum(o.num_bytes for o in chosen.values()) <= budget
    every = itertools.product(*options.values())
    best = min(sum(o.expected_loss for o in pick) for pick in every if 8 * sum(o.num_bytes for o in pick) <= budget)
    assert sum(o.expected_loss for o in chosen.values()) == pytest.approx(best)


def test_a_large_model_is_close_to_what_a_price_per_byte_would_give() -> None:
    """The dual of the problem (a price per byte) bounds the loss from below."""
    rng = np.random.default_rng(0)
    bits = (8.5, 6.5, 5.5, 4.5, 4.25, 3.5, 3.25, 2.5, 1.75)
    options = {}
    for tensor in range(300):
        size, sensitivity = int(rng.choice([331_776, 884_736, 110_592])), float(np.exp(rng.normal(0, 1.5)))
        options[f"t{tensor}"] = [
            Option(f"{b}", int(size * b / 8), sensitivity * 4.0**-b * float(np.exp(rng.normal(0, 0.1)))) for b in bits
        ]
    budget = 3.5 * sum(choices[0].num_bytes * 8 / 8.5 for choices in options.values())
    chosen = allocate(options, budget)
    loss = sum(o.expected_loss for o in chosen.values())
    num_bytes, losses = (
        np.array([[getattr(o, field) for o in choices] for choices in options.values()])
        for field in ("num_bytes", "expected_loss")
    )
    prices = np.exp(np.linspace(-40, 0, 1000))
    bound = max((losses + p * num_bytes).min(axis=1).sum() - p * budget / 8 for p in prices)
    assert len(options) * len(bits) < MAX_TOTALS  # there are far more totals than that
    assert bound <= loss <= 1.01 * bound


def test_any_budget_takes_the_best_of_each_when_there_is_room() -> None:
    options = {"a": [Option("q4", 10, 1.0), Option("q8", 20, 0.1)], "b": [Option("q4", 10, 2.0)]}
    assert {name: o.format for name, o in allocate(options, math.inf).items()} == {"a": "q8", "b": "q4"}
    assert allocate({}, 0) == {}


def test_what_cannot_be_met_is_refused_in_words() -> None:
    options = {"a": [Option("q4", 10, 1.0)], "b": [Option("q4", 10, 2.0), Option("q2", 5, 3.0)]}
    with pytest.raises(InvalidRequest, match=r"budget is 100 bits; the smallest.* need 120"):
        allocate(options, 100)
    with pytest.raises(InvalidRequest, match="budget"):
        allocate(options, math.nan)
    with pytest.raises(InvalidRequest, match="tensor c has no format"):
        allocate({**options, "c": []}, 1000)
    with pytest.raises(InvalidRequest, match="tensor c: the loss of q4 is nan"):
        allocate({"c": [Option("q4", 1, math.nan)]}, 1000)

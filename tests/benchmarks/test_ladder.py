"""benchmarks/ladder.py: who wins at which size, what llama-perplexity says, dollars, the order of the turns."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ladder_llamacpp import TYPES, parse_divergence
from benchmarks.ladder_ours import recipes_of
from benchmarks.ladder_rung import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Quality,
    Rung,
    Speed,
    judge,
    priced,
    rung_json,
    usd_per_mtok,
)
from benchmarks.ladder_table import table, verdict_lines
from benchmarks.peers.build import Missing
from farthing.economics.cost import HostCost
from farthing.quant import quantizable
from farthing.quant.methods import METHODS

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"


def rung(format: str, method: str, bits: float, kl: float, speed: Speed | None = None) -> Rung:
    return Rung("m", format, method, bits, int(bits * 1000), Quality(20.0, kl, 0.9), speed)


THEIRS = rung("q4_k", "llama.cpp, imatrix", 4.5, 0.02, Speed(1000, 100))


def test_a_type_is_beaten_by_one_that_is_no_larger_and_better() -> None:
    [won] = judge([THEIRS, rung("q4", "gptq", 4.5, 0.01, Speed(2000, 100)), rung("q8_0", "rtn", 8.5, 0.001)])
    assert won.is_won
    assert won.is_goal
    assert won.is_no_slower
    assert won.ours is not None
    assert won.ours.format == "q4"


def test_neither_a_larger_one_nor_an_equal_one_beats_it() -> None:
    [lost] = judge([THEIRS, rung("q5", "gptq", 5.5, 0.001), rung("q4", "gptq", 4.5, 0.02, Speed(2000, 99))])
    assert not lost.is_won
    assert lost.is_no_slower is False
    [none] = judge([THEIRS, rung("q5", "gptq", 5.5, 0.001)])
    assert none.ours is None
    assert not none.is_won
    assert none.is_no_slower is None


def test_a_type_that_a_smaller_one_of_theirs_beats_is_not_asked_for() -> None:
    rungs = [THEIRS, rung("q4_0", "llama.cpp", 4.6, 0.05), replace(THEIRS, model="other", quality=Quality(1, 0, 1))]
    assert [(v.theirs.model, v.theirs.format) for v in judge(rungs)] == [("m", "q4_k"), ("other", "q4_k")]


@given(st.lists(st.tuples(st.booleans(), st.floats(1.5, 9), st.floats(0, 2)), max_size=15))
def test_what_is_won_is_smaller_and_better_than_all_of_theirs_of_its_size(
    found: list[tuple[bool, float, float]],
) -> None:
    rungs = [rung(f"f{i}", "gptq" if ours else "llama.cpp", b, kl) for i, (ours, b, kl) in enumerate(found)]
    for verdict in judge(rungs):
        smaller = [r for r in rungs if not r.is_ours and r.bits_per_weight <= verdict.theirs.bits_per_weight]
        assert verdict.theirs.quality.kl_divergence == min(r.quality.kl_divergence for r in smaller)
        if verdict.is_won:
            assert verdict.ours is not None
            assert verdict.ours.bits_per_weight <= verdict.theirs.bits_per_weight + 1e-9
            assert verdict.ours.quality.kl_divergence < verdict.theirs.quality.kl_divergence


def test_dollars_are_those_of_the_seconds() -> None:
    host = HostCost(Decimal("3.6"))  # a thousandth of a dollar a second
    given, taken, blended = usd_per_mtok(host, Speed(1000.0, 10.0))
    assert given == Decimal(1)
    assert taken == Decimal(100)
    seconds = Decimal(INPUT_TOKENS) / 1000 + Decimal(OUTPUT_TOKENS) / 10
    assert blended == pytest.approx(seconds * 1000 / (INPUT_TOKENS + OUTPUT_TOKENS))
    assert priced(host, rung("q4", "gptq", 4.5, 0.01)) is None
    assert rung_json(host, THEIRS)["usd_per_mtok"] == float(usd_per_mtok(host, Speed(1000, 100))[2])
    assert rung_json(host, replace(THEIRS, speed=None))["usd_per_mtok"] is None


def test_what_llama_perplexity_says_is_read() -> None:
    said = (
        "Mean PPL(Q)                   :  12.345 ± 0.1\nMean    KLD:   0.023456 ±   0.0001\nSame top p: 93.210 ± 0.2 %"
    )
    assert parse_divergence(said) == Quality(12.345, 0.023456, pytest.approx(0.9321))
    with pytest.raises(Missing, match="top1"):
        parse_divergence(said.split("Same")[0])


def test_our_recipes_are_known_formats_and_methods_each_once() -> None:
    recipes = recipes_of(GOLDEN)
    assert len({(recipe.name, recipe.full_method) for recipe in recipes}) == len(recipes)
    assert {recipe.format for recipe in recipes if recipe.format} <= set(quantizable())
    assert {recipe.method for recipe in recipes} == set(METHODS)
    assert "q4_k" not in {recipe.format for recipe in recipes}  # its blocks of 256 do not fit
    assert len(set(TYPES)) == len(TYPES)


def test_the_table_names_every_rung_and_the_verdicts_count() -> None:
    rungs = [THEIRS, rung("q4", "gptq", 4.5, 0.01), rung("mix 3.5", "gptq", 3.5, 0.1, Speed(1, 1))]
    text = table(HostCost(), rungs)
    assert all(r.name in text for r in rungs)
    assert verdict_lines(judge(rungs))[-1].startswith("1 of 1 types")


def test_the_front_of_the_plot_falls() -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    from benchmarks.ladder_plot import pareto

    host = HostCost()
    rungs = [rung_json(host, rung(f"f{i}", "gptq", b, kl)) for i, (b, kl) in enumerate([(4, 0.1), (3, 0.2), (5, 0.3)])]
    assert [r["format"] for r in pareto(rungs, "bits_per_weight")] == ["f1", "f0"]

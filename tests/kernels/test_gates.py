"""Gates of mixtures of experts give the experts and weights of transformers' routers (scripts/make_golden_moe.py), in
NumPy and in native code, and ties go to the lowest index."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.gates import GateRule, route
from farthing.kernels.plan import Batch, Embed, Head, KVSpec, Moe, Plan, QTensor, View
from tests.models.small import golden

F32 = npt.NDArray[np.float32]
RULES = {
    "mixtral": GateRule("softmax", 2, is_renormalised=True),
    "olmoe": GateRule("softmax", 8),
    "qwen3": GateRule("softmax", 8, is_renormalised=True),
    "gpt_oss": GateRule("top_softmax", 4),
    "deepseek": GateRule("sigmoid", 8, True, 2.5, num_groups=8, num_kept_groups=4),
}
ISAS = (*kernels.instruction_sets(), "reference")
VOCAB = 129
LARGE = np.float32(20)  # silu(20) is 20, to a part in 10^8


def f32(array: Any) -> QTensor:
    values = np.atleast_2d(np.asarray(array, np.float32))
    return QTensor("f32", *values.shape, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def shares(logits: F32, rule: GateRule, isa: str, bias: F32 | None = None) -> F32:
    """Weight of each expert [T, E], 0 of those not chosen, as a Moe operation shows it: a token's row holds its logits
    and a constant, and expert e makes of the constant a one in column e."""
    num_tokens, count = logits.shape
    hidden = count + 1
    table, pick = np.zeros((VOCAB, 2 * count + 1), np.float32), np.zeros((1, hidden), np.float32)
    table[:num_tokens, :count], table[:, 2 * count], pick[0, count] = logits, LARGE, 1
    tensors = {"table": f32(table), "zeros": f32(np.zeros((VOCAB, hidden))), "eye": f32(np.eye(VOCAB, hidden))}
    tensors |= {"pick": f32(pick), "bias": f32(np.zeros(count) if bias is None else bias)}
    tensors |= {f"down.{e}": f32(np.eye(1, hidden, e).T / LARGE**2) for e in range(count)}
    whole, dst, picks = View("x", 0, 2 * count + 1), View("y", 0, hidden), ("pick",) * count
    downs = tuple(f"down.{e}" for e in range(count))
    moe = Moe(View("x", count, hidden), View("x", 0, count), dst, rule, picks, picks, downs, "bias")
    ops = (Embed(whole, "table"), Embed(dst, "zeros"), moe, Head(dst, "eye"))
    plan = Plan({"x": whole.width, "y": hidden}, ops, VOCAB, tensors)
    ids = np.arange(num_tokens, dtype=np.int32)
    batch = Batch(ids, ids, np.array([0, num_tokens], np.int32), np.arange(4, dtype=np.int32)[None], ids)
    return kernels.run(kernels.load(plan, KVSpec(1, 1, 8, 4), isa=isa), batch)[:, :count]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", RULES)
def test_moe_takes_the_golden_experts(name: str, isa: str) -> None:
    arrays = golden("gates.npz")
    found = shares(arrays[f"{name}_logits"], RULES[name], isa, arrays.get(f"{name}_bias"))
    expected = np.zeros_like(found)
    np.put_along_axis(expected, arrays[f"{name}_experts"].astype(np.int64), arrays[f"{name}_weights"], axis=1)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rule", [GateRule("softmax", 3), GateRule("sigmoid", 3, num_groups=3, num_kept_groups=2)])
def test_moe_breaks_ties_like_the_rule(rule: GateRule, isa: str) -> None:
    logits = np.random.default_rng(4).integers(0, 3, (50, 6)).astype(np.float32)
    experts, _ = route(logits, rule)
    for token, found in enumerate(shares(logits, rule, isa)):
        assert np.nonzero(found)[0].tolist() == experts[token].tolist()


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_logits_that_are_no_numbers_are_survived(isa: str) -> None:
    logits = np.full((3, 8), np.nan, np.float32)
    logits[1], logits[2, 3] = -np.inf, np.inf
    for rule in RULES.values():
        if rule.num_groups == 1 and rule.top_k <= 8:
            assert shares(logits, rule, isa).shape == (3, 8)
    shares(logits, GateRule("sigmoid", 3, num_groups=4, num_kept_groups=2), isa)


@pytest.mark.parametrize("name", RULES)
def test_golden_vectors(name: str) -> None:
    arrays = golden("gates.npz")
    experts, weights = route(arrays[f"{name}_logits"], RULES[name], arrays.get(f"{name}_bias"))
    assert np.array_equal(experts, arrays[f"{name}_experts"])
    np.testing.assert_allclose(weights, arrays[f"{name}_weights"], rtol=2e-6)


@pytest.mark.parametrize("name", RULES)
def test_flags_matter(name: str) -> None:
    """Each flag of a rule changes the golden answer: the vectors would notice a wrong one."""
    arrays, rule = golden("gates.npz"), RULES[name]
    other = GateRule(rule.kind, rule.top_k, not rule.is_renormalised, rule.scale, rule.num_groups, rule.num_kept_groups)
    _, weights = route(arrays[f"{name}_logits"], other, arrays.get(f"{name}_bias"))
    is_same = np.allclose(weights, arrays[f"{name}_weights"], rtol=1e-3)
    assert is_same == (name == "gpt_oss")  # a softmax over the chosen sums to 1 anyway
    if name == "deepseek":
        without_bias, _ = route(arrays["deepseek_logits"], rule)
        without_groups, _ = route(arrays["deepseek_logits"], GateRule("sigmoid", 8, True, 2.5), arrays["deepseek_bias"])
        for experts in (without_bias, without_groups):
            assert not np.array_equal(experts, arrays["deepseek_experts"])


@pytest.mark.parametrize("kind", ["softmax", "top_softmax", "sigmoid"])
def test_ties_go_to_the_lowest_index(kind: Any) -> None:
    logits = np.array([[1, 2, 2, 2, 1, 0], [5, 5, 5, 5, 5, 5], [-200, 0, -300, -200, 1, -200]], np.float32)
    experts, weights = route(logits, GateRule(kind, 3))
    assert experts.tolist() == [[1, 2, 3], [0, 1, 2], [0, 1, 4]]
    assert np.isfinite(weights).all()
    assert (weights[1] == weights[1, 0]).all()
    experts, _ = route(
        logits, GateRule(kind, 2, num_groups=3, num_kept_groups=1) if kind == "sigmoid" else GateRule(kind, 2)
    )
    assert experts[1].tolist() == [0, 1]

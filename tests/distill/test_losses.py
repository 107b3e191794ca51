"""The losses against sums written out by hand, and what must hold of any distributions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from farthing.distill.torch_losses import (  # noqa: E402
    coarse,
    divergence,
    hidden_distance,
    sampled_cross_entropy,
    soften,
)

KINDS = ("forward", "reverse", "jsd")
P, Q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
logits = st.lists(st.floats(-8, 8), min_size=6, max_size=6)


def logs(values):
    return torch.tensor([values], dtype=torch.float64).log()


def by_hand(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_forward_and_reverse():
    assert divergence(logs(Q), logs(P), "forward").item() == pytest.approx(by_hand(P, Q))
    assert divergence(logs(Q), logs(P), "reverse").item() == pytest.approx(by_hand(Q, P))


def test_generalised_jensen_shannon():
    m = [0.3 * a + 0.7 * b for a, b in zip(P, Q, strict=True)]
    expected = 0.3 * by_hand(P, m) + 0.7 * by_hand(Q, m)
    assert divergence(logs(Q), logs(P), "jsd", beta=0.3).item() == pytest.approx(expected, rel=1e-6)


def test_temperature_softens_both_and_scales():
    p, q = ([a**0.5 / sum(b**0.5 for b in values) for a in values] for values in (P, Q))
    assert divergence(logs(Q), logs(P), "forward", temperature=2).item() == pytest.approx(4 * by_hand(p, q))


def test_an_impossible_outcome_counts_nothing():
    assert divergence(logs((0.5, 0.5)), logs((1.0, 0.0)), "forward").item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(a=logits, b=logits, temperature=st.floats(0.5, 4))
def test_never_below_zero_and_zero_only_for_the_same(kind, a, b, temperature):
    p, q = (torch.log_softmax(torch.tensor([x], dtype=torch.float64), -1) for x in (a, b))
    apart = divergence(q, p, kind, temperature=temperature).item()
    assert apart >= -1e-9
    assert divergence(p, p, kind, temperature=temperature).item() == pytest.approx(0, abs=1e-9)
    if (soften(p, temperature).exp() - soften(q, temperature).exp()).abs().max() > 0.05:
        assert apart > 1e-5


@settings(max_examples=40, deadline=None)
@given(a=logits, b=logits)
def test_a_coarser_view_is_never_further_apart(a, b):
    p, q = (torch.log_softmax(torch.tensor([x], dtype=torch.float64), -1) for x in (a, b))
    ids = torch.tensor([[4, 1]])
    top = coarse(p, ids)
    assert top.exp().sum().item() == pytest.approx(1, abs=1e-6)
    assert divergence(coarse(q, ids), top, "forward").item() <= divergence(q, p, "forward").item() + 1e-5


def test_the_tail_is_what_is_left():
    assert coarse(logs(P), torch.tensor([[2]])).exp()[0].tolist() == pytest.approx([0.2, 0.8])


def test_what_the_student_has_no_token_for_takes_nothing_of_the_rest():
    """Twice -1: not twice the probability of token 0, which is told once, in the rest."""
    found = coarse(logs(P), torch.tensor([[1, -1, -1]]))
    assert found.exp()[0].tolist() == pytest.approx([0.3, 0, 0, 0.7])
    teacher = torch.tensor([[0.6, math.exp(-60), math.exp(-60), 0.4]], dtype=torch.float64).log()
    expected = 0.6 * math.log(0.6 / 0.3) + 0.4 * math.log(0.4 / 0.7)
    assert divergence(found, teacher, "forward").item() == pytest.approx(expected)
    turned = 0.3 * math.log(0.3 / 0.6) + 0.7 * math.log(0.7 / 0.4)
    assert divergence(found, teacher, "reverse").item() == pytest.approx(turned)


def test_sampled_targets_estimate_without_bias():
    """Tokens drawn by another distribution and weighted by teacher / draws: the mean is the whole cross-entropy."""
    draw, (p, q, proposal) = np.random.default_rng(0), (np.array(v) for v in (P, Q, (0.4, 0.4, 0.2)))
    ids = draw.choice(3, size=(20000, 4), p=proposal)
    weights = p[ids] / proposal[ids] / 4
    student = torch.from_numpy(np.log(np.tile(q, (20000, 1))))
    found = sampled_cross_entropy(student, torch.from_numpy(ids), torch.from_numpy(np.log(weights))).mean().item()
    assert found == pytest.approx(-(p * np.log(q)).sum(), rel=0.02)


def test_hidden_distance():
    student, teacher = torch.tensor([[1.0, 0], [2, 0], [-1, 0]]), torch.tensor([[3.0, 0], [0, 1], [1, 0]])
    assert hidden_distance(student, teacher).tolist() == pytest.approx([0, 1, 2])

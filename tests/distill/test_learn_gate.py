"""What the gate lets through: quality within the bound by its interval, at a cost that is shown to be lower."""

import numpy as np
import pytest

from farthing.distill.learn_gate import Judged, decide, lead
from farthing.distill.learn_lost import binomial_tail, by_label, lost_labels

NUM = 400


def rights(num_wrong: int, at: int = 0) -> np.ndarray:
    found = np.ones(NUM, np.bool_)
    found[at : at + num_wrong] = False
    return found


def judged(
    before: int = 0, after: int = 0, *, cheaper: float = 10.0, has_present: bool = True, num_old: int = 200, **more
) -> Judged:
    """So many wrong, the new version's others than the present one's; costs that vary."""
    cost = 50 + np.random.default_rng(0).normal(0, 5, NUM)
    is_old = np.arange(NUM) >= NUM - num_old
    right_after = rights(after, at=more.pop("at", before))
    return Judged(rights(before), right_after, is_old, cost, cost - cheaper, has_present, more.pop("by_label", {}))


def test_as_good_and_cheaper_is_promoted():
    verdict = decide(judged(4, 4), 0.03)
    assert verdict.kind == "promoted"
    assert verdict.lead.difference == 0
    assert -0.03 < verdict.lead.low < 0 < verdict.lead.high


@pytest.mark.parametrize(("cheaper", "kind"), [(10.0, "promoted"), (0.0, "kept"), (-1.0, "kept")])
def test_it_must_be_cheaper(cheaper, kind):
    verdict = decide(judged(4, 4, cheaper=cheaper), 0.03)
    assert verdict.kind == kind
    assert kind == "promoted" or "not shown to be cheaper" in verdict.reasons[0]


def test_a_lower_cost_by_chance_is_none():
    cost = np.random.default_rng(0).normal(50, 20, NUM)
    other = np.random.default_rng(1).normal(49.5, 20, NUM)
    found = Judged(rights(0), rights(0), rights(0), cost, other, True, {})
    assert other.mean() < cost.mean() + 1
    assert decide(found, 0.03).kind == "kept"


def test_the_interval_counts_and_not_the_difference():
    verdict = decide(judged(0, 9, num_old=0), 0.03)
    assert verdict.lead.difference > -0.03
    assert verdict.lead.low < -0.03
    assert verdict.kind == "kept"
    assert decide(judged(0, 9, num_old=0), 0.06).kind == "promoted"


def test_rounds_do_not_add_up_their_losses():
    """No worse than the present one, which is at the end of the bound already."""
    verdict = decide(judged(15, 15, at=0), 0.03)
    assert verdict.lead.difference == 0
    assert verdict.kind == "kept"
    assert "large model" in verdict.reasons[0]


def test_a_fall_that_is_shown_is_refused_where_a_version_serves():
    assert decide(judged(0, 40), 0.03).kind == "refused"
    assert decide(judged(0, 40, has_present=False), 0.03).kind == "kept", "a first version may need more rows"


def test_older_rows_are_looked_at_alone():
    """All that is lost is lost there, and what is gained elsewhere hides it."""
    found = judged(20, 20, num_old=100, at=NUM - 20)
    assert decide(found, 0.1).lead.difference == 0
    verdict = decide(found, 0.1)
    assert verdict.kind == "refused"
    assert "older rows" in verdict.reasons[0]


def test_a_label_that_falls_is_found_alone():
    calm = {f"label {number}": (20, 1, 1) for number in range(20)}
    assert decide(judged(4, 4, by_label=calm), 0.03).kind == "promoted"
    verdict = decide(judged(4, 4, by_label={**calm, "turned": (20, 12, 0)}), 0.03)
    assert verdict.kind == "refused"
    assert "12 of 20 older rows of label 'turned'" in verdict.reasons[0]


def test_too_few_requests_say_nothing():
    few = Judged(rights(0), rights(0), rights(0), np.full(10, 5.0), np.full(10, 1.0), True, {})
    assert "10 requests say nothing" in decide(few, 0.03).reasons[0]


def test_no_rows_are_no_lead():
    none = np.zeros(0, np.bool_)
    assert (lead(none, none).low, lead(none, none).high) == (-1, 1)


def test_counts_by_label():
    found = by_label(["a", "a", "b"], ["a", "b", "b"], ["b", "a", "b"])
    assert found == {"a": (2, 1, 1), "b": (1, 0, 0)}
    assert lost_labels(found) == []


def test_the_binomial_tail():
    assert binomial_tail(0, 10, 0.1) == 1
    assert binomial_tail(10, 10, 0.5) == pytest.approx(0.5**10)
    assert binomial_tail(1, 2, 0.5) == pytest.approx(0.75)


def test_harmless_versions_are_seldom_refused():
    """Two versions that differ by chance alone, 100 labels of 15 rows, 5 % of rows lost and gained."""
    num_refused = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = {f"{i}": (15, int(rng.binomial(15, 0.05)), int(rng.binomial(15, 0.05))) for i in range(100)}
        num_refused += bool(lost_labels(labels))
    assert num_refused <= 6

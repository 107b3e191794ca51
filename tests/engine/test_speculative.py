"""Prompt lookup finds what a plain search would find; drafts get longer, shorter and none as they turn out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.engine.speculative import Acceptance, Drafting, PromptLookup, lengths, step_cost

NONE = np.zeros(0, np.int32)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def searched(tokens: list[int], max_tokens: int) -> list[int]:
    """The same by looking through everything: longest n-gram first, its last occurrence before the end."""
    for length in PromptLookup.NGRAM_LENGTHS:
        for at in range(len(tokens) - 1, length - 1, -1):
            if tokens[at - length : at] == tokens[-length:]:
                return [tokens[at + i % (len(tokens) - at)] for i in range(max_tokens)]
    return []


@given(
    tokens=st.lists(st.integers(0, 3) | st.integers(0, 2**31 - 1), min_size=1, max_size=60),
    cuts=st.sets(st.integers(1, 60)),
    max_tokens=st.integers(1, 20),
)
def test_lookup_equals_a_search_however_tokens_arrive(tokens, cuts, max_tokens):
    lookup = PromptLookup()
    for end in sorted({min(cut, len(tokens)) for cut in cuts} | {len(tokens)}):
        found = lookup.propose(np.array(tokens[:end], np.int32), max_tokens)
        assert found.tolist() == searched(tokens[:end], max_tokens)


def test_the_longest_match_wins_and_then_the_latest():
    assert PromptLookup().propose(ids(1, 2, 7, 9, 2, 8, 5, 1, 2), 2).tolist() == [7, 9]  # 1 2 once, though 2 came later
    assert PromptLookup().propose(ids(1, 2, 7, 1, 2, 8, 1, 2), 3).tolist() == [8, 1, 2]
    assert PromptLookup().propose(ids(1, 2, 3), 3).tolist() == []


def test_a_repetition_goes_on_in_circles():
    assert PromptLookup().propose(ids(5, 6, 7, 5, 6, 7), 7).tolist() == [5, 6, 7, 5, 6, 7, 5]


def test_further_tokens_of_a_step_never_get_cheaper():
    costs = np.diff([step_cost(n) for n in range(1, 100)])
    assert step_cost(1) == 1
    assert (costs > 0).all()
    assert (np.diff(costs) > -1e-9).all()


chance_rows = st.lists(
    st.lists(st.floats(0.01, 1), max_size=4).map(lambda row: np.cumprod(row).tolist()), min_size=1, max_size=3
)


@given(
    chances=chance_rows,
    others=st.integers(0, 4),
    max_tokens=st.integers(0, 12),
    cost=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_lengths_give_the_most_tokens_for_the_time(chances, others, max_tokens, cost):
    """No other choice is better, of all that there are."""
    num = len(chances) + others

    def pace(taken) -> float:
        expected = num + sum(sum(row[:n]) for row, n in zip(chances, taken, strict=True))
        return expected / (step_cost(num + sum(taken)) + cost * sum(taken))

    taken = lengths(chances, num, num, max_tokens, cost)
    choices = np.ndindex(*(len(row) + 1 for row in chances))
    assert sum(taken) <= max_tokens
    assert pace(taken) >= max(pace(choice) for choice in choices if sum(choice) <= max_tokens) * (1 - 1e-9)


def test_the_more_run_the_fewer_are_drafted():
    alone, four, sixteen = (sum(lengths([[0.7, 0.5, 0.35]], num, num, 16)) for num in (1, 4, 16))
    assert alone == 3
    assert four == sixteen == 0
    assert lengths([[0.7, 0.5, 0.35]], 1, 500, 16) == [2]  # beside a long prompt every draft is dear


class Steady:
    """Proposes as many zeros as it is asked for, and counts the calls."""

    num_calls = 0

    def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:  # noqa: ARG002
        self.num_calls += 1
        return np.zeros(max_tokens, np.int32)


def lengths_while(drafting: Drafting, num_steps: int, right: int | None) -> list[int]:
    """How many were proposed in each step, if the first `right` of them (None: all) are accepted."""
    found = []
    for _ in range(num_steps):
        drafts, chances = drafting.propose(NONE, 16, 1, 1)
        assert len(drafts) == len(chances)
        found.append(len(drafts))
        drafting.learn(len(drafts), len(drafts) if right is None else min(right, len(drafts)))
    return found


def test_drafts_grow_while_they_are_right_and_shrink_when_they_are_not():
    drafting = Drafting(Steady())
    growing = lengths_while(drafting, 30, None)
    assert growing == sorted(growing)
    assert growing[0] <= 3
    assert growing[-1] == 16
    shrinking = lengths_while(drafting, 12, 0)
    assert shrinking == sorted(shrinking, reverse=True)
    assert shrinking[0] == 16
    assert shrinking[-1] <= 1


def test_the_source_that_promises_more_is_asked():
    """Guesses of the text so far are free and win at equal odds; refused, they lose to the draft model's."""
    drafting = Drafting(Steady(), is_joint=True)
    asked = []
    for _ in range(12):
        drafts, chances = drafting.propose(NONE, 16, 1, 1)
        wanted = drafting.joint(chances, 16, 1, 1, 0.1)
        asked.append(bool(wanted))
        num = len(wanted) or len(drafts)
        drafting.learn(num, num if wanted else 0)
    assert not asked[0]
    assert all(asked[6:])
    dear = Drafting(None, is_joint=True)
    assert dear.propose(NONE, 16, 1, 1)[1] == []
    assert len(dear.joint([], 16, 1, 1, 0.0)) > len(dear.joint([], 16, 1, 1, 0.6)) == 0
    assert Drafting(Steady()).joint([], 16, 1, 1, 0.0) == []


def test_where_none_is_right_there_are_ever_fewer_probes():
    drafter = Steady()
    drafting = Drafting(drafter)
    found = lengths_while(drafting, 400, 0)
    assert sum(found[:30]) > 0
    assert sum(found[200:]) <= 200 // (Acceptance.LONGEST_PAUSE + 1) + 1
    assert max(found[200:]) == 1
    assert drafter.num_calls == np.count_nonzero(found)  # a draft model is not asked in vain


def test_a_probe_that_is_right_begins_afresh():
    drafting = Drafting(Steady())
    first = lengths_while(drafting, 1, 0)
    lengths_while(drafting, 100, 0)
    until_probe = lengths_while(drafting, Acceptance.LONGEST_PAUSE + 1, None)
    assert 1 in until_probe
    after = until_probe[until_probe.index(1) + 1 :] or lengths_while(drafting, 1, None)
    assert after[0] == first[0]


def test_no_room_no_drafts():
    drafter = Steady()
    assert len(Drafting(drafter).propose(NONE, 0, 1, 1)[0]) == 0
    assert drafter.num_calls == 0


def test_the_same_outcomes_give_the_same_drafts():
    first, second = Drafting(Steady()), Drafting(Steady())
    for right in (3, 0, None, 1, 0, 0, None):
        assert lengths_while(first, 5, right) == lengths_while(second, 5, right)


def test_a_drafter_that_gives_too_many_is_noticed():
    class Talkative:
        def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:  # noqa: ARG002
            return np.zeros(max_tokens + 1, np.int32)

    with pytest.raises(AssertionError, match="drafts for"):
        Drafting(Talkative()).propose(NONE, 16, 1, 1)

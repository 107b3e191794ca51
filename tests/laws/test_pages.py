"""Law 2: pages are conserved by any operations, each holds what its reader thinks, none is held at idle."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from farthing.cache import DEFAULT_EVICTION, KVCache, UnderWay

PAGE = 2
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12)


class Holder:
    """A lease with the tokens that its sequence has computed, and those it is going to."""

    def __init__(self, lease, tokens, salt):
        self.lease, self.tokens, self.salt = lease, list(tokens), salt
        self.num_computed = lease.num_shared * PAGE


class Pages(RuleBasedStateMachine):
    holders = Bundle("holders")
    eviction = DEFAULT_EVICTION

    def __init__(self):
        super().__init__()
        self.cache = KVCache(9, PAGE, eviction=self.eviction)
        self.memory = {page: [None] * PAGE for page in range(9)}  # as stored: (salt, tokens so far)
        self.live: list[Holder] = []

    def write(self, holder, position):
        page = int(holder.lease.page_table[position // PAGE])
        self.memory[page][position % PAGE] = (holder.salt, tuple(holder.tokens[: position + 1]))

    @rule(target=holders, tokens=prompts, salt=st.sampled_from(["", "a"]), is_announced=st.booleans())
    def match(self, tokens, salt, is_announced):
        found = self.cache.match(tokens, salt)
        if isinstance(found, UnderWay):
            assert not found.is_over
            assert any(
                other.salt == salt and other.lease.announced is not None and other.tokens[:PAGE] == tokens[:PAGE]
                for other in self.live
            )
            return None
        assert found.num_shared * PAGE < len(tokens)
        holder = Holder(found, tokens, salt)
        self.live.append(holder)
        if is_announced:
            self.cache.announce(found, tokens)
        return holder

    @rule(holder=holders, n=st.integers(1, 6), more=prompts)
    def compute(self, holder, n, more):
        """The next n tokens: of the prompt, then others, as an answer would be; or others after a truncation."""
        if holder not in self.live:
            return
        holder.tokens += more
        end = min(holder.num_computed + n, len(holder.tokens))
        missing = max(0, end - holder.lease.num_tokens)
        available = self.cache.num_available
        before = holder.lease.num_pages
        if not self.cache.grow(holder.lease, missing):
            assert -(-end // PAGE) - before > available == self.cache.num_available
            return
        for position in range(holder.num_computed, end):
            self.write(holder, position)
        holder.num_computed = end
        self.cache.commit(holder.lease, holder.tokens[:end])

    @rule(holder=holders, n=st.integers(0, 12))
    def truncate(self, holder, n):
        if holder not in self.live or n > holder.num_computed:
            return
        kept = self.cache.truncate(holder.lease, n)
        assert n - PAGE < kept <= n
        holder.num_computed = kept
        holder.tokens = holder.tokens[:kept]

    @rule(holder=consumes(holders))
    def release(self, holder):
        if holder in self.live:
            self.live.remove(holder)
            self.cache.release(holder.lease)

    @rule(holder=consumes(holders))
    def release_and_find_again(self, holder):
        if holder not in self.live:
            return
        self.live.remove(holder)
        self.cache.release(holder.lease)
        tokens = [*holder.tokens[: holder.num_computed], 7]
        found = self.cache.match(tokens, holder.salt)
        assert not isinstance(found, UnderWay), "nobody announced a token 7, and what was computed was committed"
        assert found.num_shared == holder.num_computed // PAGE
        for position in range(found.num_shared * PAGE):
            page = int(found.page_table[position // PAGE])
            assert self.memory[page][position % PAGE] == (holder.salt, tuple(tokens[: position + 1]))
        self.cache.release(found)

    @invariant()
    def everything_adds_up(self):
        self.cache.check()
        for holder in self.live:
            for position in range(holder.num_computed):
                page = int(holder.lease.page_table[position // PAGE])
                assert self.memory[page][position % PAGE] == (holder.salt, tuple(holder.tokens[: position + 1]))

    def teardown(self):
        for holder in self.live:
            self.cache.release(holder.lease)
        self.cache.check()
        assert self.cache.num_leased == 0
        assert self.cache.num_available == self.cache.num_pages


class PagesInOrderOfUse(Pages):
    eviction = "lru"


TestPages, TestPagesInOrderOfUse = Pages.TestCase, PagesInOrderOfUse.TestCase
TestPages.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestPagesInOrderOfUse.settings = TestPages.settings


@pytest.mark.torture
def test_pages_at_length():
    run_state_machine_as_test(Pages, settings=settings(max_examples=5000, stateful_step_count=100, deadline=None))

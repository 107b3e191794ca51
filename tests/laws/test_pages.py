"""Law 2: pages are conserved by any operations, each holds what its reader thinks, none is held at idle."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test

from farthing.cache import KVCache, UnderWay

PAGE = 2
salts = st.sampled_from(["", "a", "b"])
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=12)


class Holder:
    """A lease with the tokens that its sequence has computed, and those it is going to."""

    def __init__(self, lease, tokens, salt, num_public):
        self.lease, self.tokens, self.salt = lease, list(tokens), salt
        self.num_public = num_public // PAGE * PAGE  # a page is public if all of it is
        self.num_computed = lease.num_shared * PAGE

    def stored(self, position):
        """What a page holds at a position: whose it is, and all tokens so far, on which keys and values depend."""
        return None if position < self.num_public else self.salt, tuple(self.tokens[: position + 1])


class Pages(RuleBasedStateMachine):
    holders = Bundle("holders")
    eviction = "odds"

    def __init__(self):
        super().__init__()
        self.cache = KVCache(9, PAGE, eviction=self.eviction)
        self.memory = {page: [None] * PAGE for page in range(9)}  # as Holder.stored
        self.live: list[Holder] = []
        self.pinned = {}  # pin -> what its pages hold, page by page

    def write(self, holder, position):
        page = int(holder.lease.page_table[position // PAGE])
        self.memory[page][position % PAGE] = holder.stored(position)

    @rule(target=holders, tokens=prompts, salt=salts, num_public=st.integers(0, 12), is_announced=st.booleans())
    def match(self, tokens, salt, num_public, is_announced):
        num_public = min(num_public, len(tokens))
        room = self.cache.room(tokens, salt, num_public)
        assert self.cache.num_pages - self.cache.num_pinned <= room <= self.cache.num_pages
        found = self.cache.match(tokens, salt, num_public)
        if isinstance(found, UnderWay):
            assert not found.is_over
            assert any(
                (other.salt == salt or min(other.num_public, num_public) >= PAGE)
                and other.lease.announced is not None
                and other.tokens[:PAGE] == tokens[:PAGE]
                for other in self.live
            )
            return None
        assert found.num_shared * PAGE < len(tokens)
        holder = Holder(found, tokens, salt, num_public)
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
        holder.num_public = min(holder.num_public, kept // PAGE * PAGE)
        for position in range(holder.num_public, kept):  # a page that is not complete any more is nobody else's
            self.write(holder, position)

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
        tokens = holder.tokens = [*holder.tokens[: holder.num_computed], 7]
        found = self.cache.match(tokens, holder.salt, holder.num_public)
        assert not isinstance(found, UnderWay), "nobody announced a token 7, and what was computed was committed"
        assert found.num_shared == holder.num_computed // PAGE
        for position in range(found.num_shared * PAGE):
            page = int(found.page_table[position // PAGE])
            assert self.memory[page][position % PAGE] == holder.stored(position)
        self.cache.release(found)

    @rule(n=st.integers(1, 9))
    def evict(self, n):
        """Someone takes pages, of those that are free or warm, and gives them back."""
        lease = self.cache.match([8])
        if isinstance(lease, UnderWay):
            return
        if self.cache.grow(lease, min(n, self.cache.num_available) * PAGE):
            for page in lease.page_table[: lease.num_pages].tolist():
                self.memory[page] = ["taken"] * PAGE
        self.cache.release(lease)

    @rule(holder=holders)
    def pin(self, holder):
        if holder not in self.live:
            return
        num_shared = holder.lease.num_shared
        pages = holder.lease.page_table[:num_shared].tolist()
        stored = [[holder.stored(page * PAGE + slot) for slot in range(PAGE)] for page in range(num_shared)]
        self.pinned[self.cache.pin(holder.lease)] = (pages, stored)

    @rule(data=st.data())
    def unpin(self, data):
        if self.pinned:
            pin = data.draw(st.sampled_from(list(self.pinned)))
            del self.pinned[pin]
            self.cache.unpin(pin)

    @invariant()
    def everything_adds_up(self):
        self.cache.check()
        for holder in self.live:
            for position in range(holder.num_computed):
                page = int(holder.lease.page_table[position // PAGE])
                assert self.memory[page][position % PAGE] == holder.stored(position)
        for pages, stored in self.pinned.values():
            assert [self.memory[page] for page in pages] == stored
        assert self.cache.num_pinned == len({page for pages, _ in self.pinned.values() for page in pages})

    def teardown(self):
        for holder in self.live:
            self.cache.release(holder.lease)
        self.cache.check()
        self.cache.check_idle()
        for pin in self.pinned:
            self.cache.unpin(pin)
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

"""Law 2 through the engine: whatever is submitted, forked, aborted, put out, evicted, pinned or breaks, no sequence
reads a page that another tenant wrote or that holds other tokens, and without work nothing but pins is held."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from farthing.engine import Engine, EngineConfig
from farthing.errors import CapacityError
from farthing.request import Done, Request, SamplingParams
from tests.engine.fake import FakeClock, FakeKernels, FakeModel, naive

PAGE = 8
STEMS = [tuple((i * i + k) % 29 for i in range(40)) for k in (0, 1)]
tenants = st.sampled_from(["", "a", "b", "public"])
lengths = st.sampled_from([3, 8, 15, 16, 17, 24, 33, 40])


class Broken(Exception):
    pass


class Witness(FakeKernels):
    """Notes who wrote what into which page, and holds every reader to it. Breaks once when told to."""

    def __init__(self):
        self.engine = None
        self.is_breaking = False
        self.written = {}  # (page, slot) -> (tenant or None for public, the tokens so far)
        self.asked = {}  # id -> its request

    def stored(self, seq, position):
        request = self.asked[seq.id]
        is_public = position // PAGE < request.num_public_tokens // PAGE
        return None if is_public else request.salt, tuple(seq.token_ids[: position + 1].tolist())

    def run(self, program, batch):
        for seq in self.engine._scheduler.running:
            if not seq.num_scheduled_tokens:
                continue
            for position in range(seq.num_computed_tokens + seq.num_scheduled_tokens):
                at = int(seq.lease.page_table[position // PAGE]), position % PAGE
                if position < seq.num_computed_tokens:
                    assert self.written[at] == self.stored(seq, position)
                else:
                    self.written[at] = self.stored(seq, position)
        logits = program.run(batch)
        if self.is_breaking:
            self.is_breaking = False
            raise Broken
        return logits


class Tenants(RuleBasedStateMachine):
    @initialize(num_pages=st.integers(6, 16), max_num_seqs=st.integers(1, 4), budget=st.integers(1, 40))
    def start(self, num_pages, max_num_seqs, budget):
        self.kernels = Witness()
        config = EngineConfig(
            page_size=PAGE,
            num_pages=num_pages,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            speculation="prompt-lookup",
        )
        self.engine = Engine(FakeModel(), config, kernels=self.kernels, clock_ns=FakeClock())
        self.kernels.engine = self.engine
        self.live = set()
        self.pins = set()

    def send(self, request, send):
        try:
            id = send(request)
        except CapacityError:
            assert self.pins or send == self.engine.pin, "every prompt fits where nothing is pinned"
            return
        self.kernels.asked[id] = request
        (self.pins if send == self.engine.pin else self.live).add(id)

    @rule(stem=st.sampled_from(STEMS), length=lengths, tail=st.lists(st.integers(0, 1), max_size=2), salt=tenants,
          num_public=st.integers(0, 40), max_tokens=st.integers(1, 20), times=st.integers(1, 3))  # fmt: skip
    def submit(self, stem, length, tail, salt, num_public, max_tokens, times):
        """Once, or several times: parallel samples of one prompt."""
        prompt = (*stem[:length], *tail)
        params = SamplingParams(temperature=0, max_tokens=max_tokens)
        request = Request(
            token_ids=prompt, params=params, salt=salt, num_public_tokens=min(num_public, length, len(prompt))
        )
        for _ in range(times):
            self.send(request, self.engine.submit)

    @rule(stem=st.sampled_from(STEMS), length=st.sampled_from([8, 17, 24, 40]), salt=tenants, is_public=st.booleans())
    def pin(self, stem, length, salt, is_public):
        prompt = stem[:length]
        request = Request(token_ids=prompt, salt=salt, num_public_tokens=length if is_public else 0)
        self.send(request, self.engine.pin)

    @rule(data=st.data())
    def unpin(self, data):
        if self.pins:
            id = data.draw(st.sampled_from(sorted(self.pins)))
            self.pins.remove(id)
            self.engine.unpin(id)

    @rule(data=st.data())
    def abort(self, data):
        if self.live:
            id = data.draw(st.sampled_from(sorted(self.live)))
            self.live.remove(id)
            assert self.engine.abort(id).finish_reason == "abort"

    @rule(times=st.integers(1, 8))
    def step(self, times):
        for _ in range(times):
            for event in self.engine.step():
                if isinstance(event, Done):
                    self.finish(event)

    @rule(is_given_up=st.booleans())
    def break_down(self, is_given_up):
        """A kernel raises. The step can be taken again, or all that was under way be given up."""
        if not self.engine.has_work:
            return
        self.kernels.is_breaking = True
        with pytest.raises(Broken):
            self.engine.step()
        if is_given_up:
            for id in sorted(self.live | self.pins):
                self.engine.abort(id)
            self.live.clear()
            self.pins &= set(self.engine._pins._kept)
            assert not self.engine.has_work

    def finish(self, done):
        request = self.kernels.asked[done.request_id]
        if done.request_id in self.pins:
            assert done.token_ids == ()
            return
        self.live.remove(done.request_id)
        assert list(done.token_ids) == naive(request.token_ids, request.params)[: len(done.token_ids)]

    @invariant()
    def everything_adds_up(self):
        if hasattr(self, "engine"):
            self.engine.cache.check()
            if not self.engine.has_work:
                self.engine.cache.check_idle()

    def teardown(self):
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.engine.has_work:
                break
            self.step(1)
        assert not self.live
        for id in self.pins:
            self.engine.unpin(id)
        self.engine.cache.check()
        assert self.engine.cache.num_available == self.engine.cache.num_pages


TestTenants = Tenants.TestCase
TestTenants.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.torture
def test_tenants_at_length():
    run_state_machine_as_test(Tenants, settings=settings(max_examples=3000, stateful_step_count=80, deadline=None))

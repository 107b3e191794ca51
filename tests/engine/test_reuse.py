"""Nothing is computed twice: turns, samples and followers; tenants apart, public prefixes shared, pinned ones kept."""

from pathlib import Path

import pytest

from farthing.engine import Engine, EngineConfig
from farthing.errors import CapacityError, InvalidRequest
from farthing.models import load_model
from farthing.request import Done, Message, Request, SamplingParams
from tests.engine.fake import FakeClock, FakeKernels, FakeModel, greedy, make_engine, naive

GOLDEN = Path(__file__).parents[1] / "golden"
PAGE = 8
PROMPT = tuple(i % 29 for i in range(50))  # six pages of 8, and two tokens


def computed(engine, *requests):
    """Tokens computed to answer the requests, one after the other, and what each found in the cache."""
    before = engine.stats().num_computed_tokens
    found = [engine.generate([request])[0].usage.cache_read_tokens for request in requests]
    return engine.stats().num_computed_tokens - before, found


def golden_engine(family="llama", **config):
    return Engine(load_model(GOLDEN / family), EngineConfig(**{"num_pages": 64, "num_threads": 1, **config}))


def asked(token_ids, salt="", num_public_tokens=0, max_tokens=4):
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return Request(token_ids=tuple(token_ids), params=params, salt=salt, num_public_tokens=num_public_tokens)


TEXT = [(i * i + 3 * i) % 290 for i in range(100)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_same_salt_hits_and_another_computes_as_much_as_on_an_empty_cache(family):
    engine = golden_engine(family)
    request = asked(TEXT, "alice")
    empty, found = computed(engine, request)
    assert (empty, found) == (100 + 3, [0])
    same, found = computed(engine, request)
    assert (same, found) == (100 - 96 + 3, [96])
    for salt in ("bob", "", "alice ", "Alice"):
        assert computed(engine, asked(TEXT, salt)) == (empty, [0])
    fresh = golden_engine(family).generate([request])[0]
    assert engine.generate([asked(TEXT, "bob")])[0].token_ids == fresh.token_ids


def test_a_public_prefix_is_shared_in_whole_pages_and_nothing_behind_it():
    engine = golden_engine()
    first = asked(TEXT, "alice", num_public_tokens=40)  # two pages of 16, and half a page
    assert computed(engine, first)[1] == [0]
    assert computed(engine, first)[1] == [96]
    assert computed(engine, asked(TEXT, "bob", num_public_tokens=40))[1] == [32]
    assert computed(engine, asked(TEXT, "bob", num_public_tokens=40))[1] == [96]
    assert computed(engine, asked(TEXT, "carol"))[1] == [0]  # for whom nothing of it is public
    assert computed(engine, asked(TEXT, "dave", num_public_tokens=100))[1] == [32]


@pytest.mark.parametrize("salt", ["", "public", "\0", "a" * 1000, "\ud800", "\u00e9", "e\u0301"])
def test_no_salt_is_the_public_one(salt):
    engine = make_engine()
    computed(engine, Request(token_ids=PROMPT, params=SamplingParams(max_tokens=1), num_public_tokens=50, salt="x"))
    assert computed(engine, greedy(*PROMPT, salt=salt))[1] == [0]
    assert computed(engine, greedy(*PROMPT, salt=salt + "b"))[1] == [0]
    assert computed(engine, greedy(*PROMPT, salt=salt))[1] == [48]


def test_tokens_that_spell_a_salt_reach_nobody():
    """Keys hold the salt beside the tokens: no text and no salt can be chosen so that one reads as the other."""
    engine = make_engine()
    computed(engine, greedy(*PROMPT, salt="ab"))
    spelled = [ord("a") % 29, ord("b") % 29]
    assert computed(engine, greedy(*spelled, *PROMPT, salt=""))[1] == [0]
    assert computed(engine, greedy(*PROMPT, salt="a"), greedy(*PROMPT[1:], salt="ab"))[1] == [0, 0]


def test_at_most_a_page_of_what_is_cached_is_computed_again_across_turns():
    engine = golden_engine(num_pages=128)
    conversation, num_computed = list(TEXT[:37]), 0
    for turn in range(6):
        done = engine.generate([asked(conversation, max_tokens=11)])[0]
        assert num_computed - done.usage.cache_read_tokens < engine.config.page_size
        conversation += done.token_ids
        num_computed = len(conversation) - 1  # the last token was chosen and never run
        conversation += range(turn, turn + 9)


def test_parallel_samples_compute_their_prompt_once():
    engine = golden_engine()
    params = SamplingParams(temperature=1, seed=None, max_tokens=1, ignore_eos=True)
    done = engine.generate([Request(token_ids=tuple(TEXT), params=params) for _ in range(8)])
    assert [d.usage.cache_read_tokens for d in done] == [0] + [96] * 7
    assert engine.stats().num_computed_tokens == 100 + 7 * 4


def test_followers_of_another_tenant_wait_for_the_public_part_only():
    engine = make_engine(max_num_batched_tokens=16)
    requests = [
        Request(token_ids=(*PROMPT, i), params=SamplingParams(temperature=0, max_tokens=1), salt=str(i),
                num_public_tokens=34)
        for i in range(3)
    ]  # fmt: skip
    done = engine.generate(requests)
    assert [d.usage.cache_read_tokens for d in done] == [0, 32, 32]
    assert engine.stats().num_computed_tokens == 51 + 2 * (51 - 32)


def test_public_messages_are_public_as_far_as_they_fill_pages():
    engine = golden_engine()
    system = Message("system", "You are a helpful assistant who answers in short sentences, always." * 2)

    def ask(text, salt, num_public_messages):
        params = SamplingParams(temperature=0, max_tokens=1)
        messages = (system, Message("user", text))
        return Request(messages, params=params, salt=salt, num_public_messages=num_public_messages)

    alone = len(engine.model.encode_chat([system], add_generation_prompt=False))
    first, second = engine.generate([ask("What is a farthing?", "a", 1), ask("What is a farthing?", "b", 1)])
    assert first.usage.cache_read_tokens == 0
    assert second.usage.cache_read_tokens == alone // 16 * 16
    assert engine.generate([ask("What is a farthing?", "c", 0)])[0].usage.cache_read_tokens == 0
    assert engine.generate([ask("What is a farthing?", "a", 2)])[0].usage.cache_read_tokens == alone // 16 * 16


@pytest.mark.parametrize("given", [{"num_public_messages": 2}, {"num_public_messages": -1}, {"num_public_tokens": 1}])
def test_no_more_can_be_public_than_there_is(given):
    with pytest.raises(InvalidRequest, match=r"num_public_\w+ is -?\d; allowed: 0 to"):
        Request((Message("user", "a"),), **given)


def run(engine, done=None):
    """Steps until there is no more work; the Done events, also put into `done`."""
    done = [] if done is None else done
    while engine.has_work:
        done += [event for event in engine.step() if isinstance(event, Done)]
    return done


def test_a_pinned_prefix_stays_when_pages_are_needed_and_goes_when_it_is_unpinned():
    engine = make_engine(num_pages=12)
    id = engine.pin(greedy(*PROMPT[:20]))  # two pages
    (done,) = run(engine)
    assert (done.request_id, done.text, done.token_ids) == (id, "", ())
    assert (done.usage.input_tokens, done.usage.output_tokens) == (16, 0)
    assert (engine.cache.num_pinned, engine.cache.num_leased, engine.cache.num_available) == (2, 0, 10)
    others = [greedy(*(28 - t for t in PROMPT[i:]), max_tokens=40, ignore_eos=True) for i in range(4)]
    engine.generate(others)
    assert computed(engine, greedy(*PROMPT, max_tokens=1))[1] == [16]
    engine.unpin(id)
    assert (engine.cache.num_pinned, engine.cache.num_available) == (0, 12)
    engine.generate(others)
    assert computed(engine, greedy(*PROMPT, max_tokens=1))[1] == [0]


def test_a_pin_and_its_followers_compute_the_prefix_once():
    engine = make_engine()
    engine.pin(greedy(*PROMPT[:16]))
    engine.submit(greedy(*PROMPT, max_tokens=1))
    pinned, done = run(engine)
    assert (pinned.usage.cache_read_tokens, done.usage.cache_read_tokens) == (0, 16)
    assert engine.stats().num_computed_tokens == 50
    engine.pin(greedy(*PROMPT[:16]))  # again: only its last page is run
    (again,) = run(engine)
    assert again.usage.cache_read_tokens == 8
    assert engine.cache.num_pinned == 2


def test_pins_take_time_that_is_accounted_for():
    engine = make_engine(clock=FakeClock())
    engine.pin(greedy(*PROMPT))
    engine.submit(greedy(*PROMPT, 3, max_tokens=5))
    usages = [done.usage for done in run(engine)]
    assert sum(usage.compute_s for usage in usages) == pytest.approx(engine.stats().busy_s, abs=1e-12)


def test_pinning_more_than_the_pages_hold_is_refused():
    engine = make_engine(num_pages=6)
    with pytest.raises(CapacityError, match="6 more pages, 1 more than can be: of 6 pages 0 are pinned"):
        engine.pin(greedy(*PROMPT[:48]))
    engine.pin(greedy(*PROMPT[:24]))
    with pytest.raises(CapacityError, match="3 more pages, 1 more"):  # the first is promised, though not computed yet
        engine.pin(greedy(*PROMPT[1:25]))
    assert len(run(engine)) == 1
    engine.pin(greedy(*PROMPT[:40]))  # shares three pages, two are new: one is left
    assert len(run(engine)) == 1
    assert engine.cache.num_pinned == 5
    (done,) = engine.generate([greedy(9, 9, max_tokens=100, ignore_eos=True)])
    assert (done.finish_reason, len(done.token_ids)) == ("length", 6)
    with pytest.raises(CapacityError, match="the pages hold 8, beside 40 of pinned prefixes"):
        engine.submit(greedy(*[9] * 8))
    engine.submit(greedy(*PROMPT[:40], 1, max_tokens=3))  # its first pages are there
    assert run(engine)[0].finish_reason == "length"


def test_a_pin_leaves_room_for_the_requests_under_way():
    engine = make_engine(num_pages=8)
    engine.submit(greedy(*PROMPT, max_tokens=6, ignore_eos=True))  # seven pages at its longest
    engine.step()
    with pytest.raises(CapacityError, match="2 more pages, 1 more than can be"):
        engine.pin(greedy(*[9] * 16))
    engine.pin(greedy(*[9] * 8))
    assert len(run(engine)) == 2
    engine.pin(greedy(*[8] * 16))
    assert len(run(engine)) == 1
    assert engine.cache.num_pinned == 3


def test_what_cannot_be_pinned_is_said():
    with pytest.raises(InvalidRequest, match="7 tokens; only whole pages of 8"):
        make_engine().pin(greedy(*PROMPT[:7]))
    with pytest.raises(InvalidRequest, match="is_prefix_cached"):
        make_engine(is_prefix_cached=False).pin(greedy(*PROMPT))
    with pytest.raises(CapacityError, match="the context is 40"):
        make_engine(context=40).pin(greedy(*PROMPT))
    engine = make_engine()
    with pytest.raises(InvalidRequest, match="id 7"):
        engine.unpin(7)
    request = engine.submit(greedy(*PROMPT))
    with pytest.raises(InvalidRequest, match=f"id {request}"):
        engine.unpin(request)


def test_a_pin_under_way_can_be_given_up():
    engine = make_engine(max_num_batched_tokens=16)
    id = engine.pin(greedy(*PROMPT))
    engine.step()
    done = engine.unpin(id)
    assert (done.finish_reason, done.usage.input_tokens) == ("abort", 16)
    assert not engine.has_work
    assert engine.cache.num_pinned == 0
    with pytest.raises(InvalidRequest):
        engine.unpin(id)


class Breaking(FakeKernels):
    """Raises in the call of the given name, the given number of calls from now on."""

    def __init__(self):
        self.when = {}

    def _perhaps(self, name):
        self.when[name] = self.when.get(name, -1) - 1
        if self.when[name] == -1:
            raise MemoryError(name)

    def run(self, program, batch):
        logits = super().run(program, batch)
        self._perhaps("run")
        return logits

    def sample(self, program, logits, **p):
        self._perhaps("sample")
        return super().sample(program, logits, **p)


def breaking_engine(**config):
    kernels = Breaking()
    settings = EngineConfig(**{"page_size": PAGE, "num_pages": 24, "max_num_batched_tokens": 40, **config})
    return Engine(FakeModel(), settings, kernels=kernels, clock_ns=FakeClock()), kernels


REQUESTS = [greedy(*PROMPT, i, max_tokens=20, ignore_eos=True) for i in range(3)]


@pytest.mark.parametrize("name", ["run", "sample"])
@pytest.mark.parametrize("calls", [0, 1, 3, 8])
def test_a_kernel_that_raises_leaves_no_page_behind(name, calls):
    engine, kernels = breaking_engine(speculation="prompt-lookup")
    ids = [engine.submit(request) for request in REQUESTS]
    kernels.when[name] = calls
    with pytest.raises(MemoryError):
        run(engine)
    engine.cache.check()
    for id in ids:
        engine.abort(id)
    assert not engine.has_work
    engine.cache.check_idle()
    engine.cache.check()
    for request, done in zip(REQUESTS, engine.generate(REQUESTS), strict=True):
        assert list(done.token_ids) == naive(request.token_ids, request.params)


@pytest.mark.parametrize("name", ["run", "sample"])
def test_the_step_that_broke_can_be_taken_again(name):
    engine, kernels = breaking_engine(num_pages=12)
    ids = [engine.submit(request) for request in REQUESTS]
    done = []
    for calls in (0, 1, 2, 5, 7):
        kernels.when[name] = calls
        with pytest.raises(MemoryError):
            run(engine, done)
    run(engine, done)
    for event in done:
        request = REQUESTS[ids.index(event.request_id)]
        assert list(event.token_ids) == naive(request.token_ids, request.params)
    assert len(done) == 3


class BrokenDrafter:
    def propose(self, *_):
        raise RuntimeError("no idea")


def test_a_drafter_that_raises_leaves_no_page_behind():
    engine = make_engine(make_drafter=BrokenDrafter)
    ids = [engine.submit(request) for request in REQUESTS]
    with pytest.raises(RuntimeError, match="no idea"):
        run(engine)
    for id in ids:
        engine.abort(id)
    engine.cache.check()
    engine.cache.check_idle()


def test_a_detokenizer_that_raises_leaves_no_page_behind(monkeypatch):
    engine = make_engine()
    ids = [engine.submit(request) for request in REQUESTS]
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr("farthing.models.tokenizer.Detokenizer.push", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run(engine)
    for id in ids:
        engine.abort(id)
    engine.cache.check()
    engine.cache.check_idle()
    assert list(engine.generate(REQUESTS[:1])[0].token_ids) == naive(REQUESTS[0].token_ids, REQUESTS[0].params)


def test_becoming_idle_looks_at_every_page_now_and_then(monkeypatch):
    engine = make_engine(num_pages=64)
    seen = []
    monkeypatch.setattr("farthing.cache.kv_cache.check_pages", lambda *_: seen.append(engine.stats().num_steps))
    for start in range(8):
        engine.generate(
            [greedy(*PROMPT[start : start + 20], max_tokens=1)]
        )  # three pages: every third time it is eight
    assert seen == [3, 6]


def test_becoming_idle_notices_what_was_left_behind():
    engine = make_engine()
    engine.cache.match(PROMPT)
    with pytest.raises(AssertionError, match="1 leases have been left behind"):
        engine.generate([greedy(1, 2, 3, max_tokens=1)])

"""The cold tier changes no answer (law 1), loses no page (law 2), and shows nobody what another tenant said."""

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from farthing import kernels
from farthing.engine import Engine, EngineConfig
from farthing.models import Model, load_model
from farthing.request import Done, Request, SamplingParams, Token
from tests.engine.fake import VOCAB_SIZE, greedy, make_engine, naive
from tests.engine.play import scripts
from tests.laws.test_same_answer_native import CASES, Naive, check, with_logprobs
from tests.laws.test_same_answer_native import golden as real

GOLDEN = Path(__file__).parent.parent / "golden"
PAGE = 8
STEMS = [[(i * i + 3 * i + k) % (VOCAB_SIZE - 1) for i in range(64)] for k in range(2)]
SALTS = ["", "a", "b"]
ROOM = 40 << 10  # of the cold tier on disk: about forty pages of the fake model with what belongs to each


class Life(RuleBasedStateMachine):
    """An engine with few pages: submit, abort, fork, evict, restart, crash, damage. Answers are the naive ones."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.engine = None
        self.running: dict[int, Request] = {}
        self.said: dict[str, list[tuple[int, ...]]] = {salt: [] for salt in SALTS}  # all that was computed, by salt

    @initialize(
        is_on_disk=st.booleans(),
        num_pages=st.integers(9, 14),
        max_num_seqs=st.integers(1, 4),
        max_num_batched_tokens=st.sampled_from([3, 8, 20, 64]),
        speculation=st.sampled_from(["off", "prompt-lookup"]),
        cold_bytes=st.sampled_from([ROOM // 4, ROOM]),
    )
    def start(self, is_on_disk, **config):
        folder = self.folder / "cold" if is_on_disk else None
        self.config = {"page_size": PAGE, "cold_folder": folder, **config}
        self.engine = make_engine(**self.config)

    @rule(
        stem=st.sampled_from(STEMS),
        length=st.integers(1, 44),
        tail=st.lists(st.integers(0, VOCAB_SIZE - 2), max_size=3),
        max_tokens=st.integers(1, 16),
        salt=st.sampled_from(SALTS),
    )
    def submit(self, stem, length, tail, max_tokens, salt):
        self.send(greedy(*stem[:length], *tail, max_tokens=max_tokens, salt=salt))

    @rule(data=st.data(), tail=st.lists(st.integers(0, VOCAB_SIZE - 2), min_size=1, max_size=4))
    def fork(self, data, tail):
        """Go on from somewhere in what was said, as a conversation does, or an edit of it."""
        salt = data.draw(st.sampled_from(SALTS))
        if self.said[salt]:
            text = data.draw(st.sampled_from(self.said[salt]))
            length = data.draw(st.integers(1, min(len(text), 44)))
            self.send(greedy(*text[:length], *tail, max_tokens=6, salt=salt))

    @rule(data=st.data(), salt=st.sampled_from(SALTS), how=st.sampled_from(["evict", "restart", "crash", "damage"]))
    def lose_and_ask_again(self, data, salt, how):
        """What the tier is for: something long was answered, has left the hot pool, and is asked for again."""
        stem = data.draw(st.sampled_from(STEMS))
        length = data.draw(st.integers(20, 44))
        self.send(greedy(*stem[:length], max_tokens=6, salt=salt))
        self.run_to_the_end()
        self.damage(data.draw(st.integers(0, 1 << 30))) if how == "damage" else getattr(self, how)()
        self.send(greedy(*stem[: data.draw(st.integers(20, 44))], max_tokens=6, salt=salt))
        self.run_to_the_end()

    def run_to_the_end(self):
        while self.engine.has_work:
            self.step(1)

    def send(self, request):
        self.running[self.engine.submit(request)] = request

    @rule(n=st.integers(1, 30))
    def step(self, n):
        for _ in range(n):
            for event in self.engine.step():
                if isinstance(event, Done):
                    self.finish(event)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def abort(self, data):
        self.finish(self.engine.abort(data.draw(st.sampled_from(sorted(self.running)))))

    def finish(self, done):
        request = self.running.pop(done.request_id)
        expected = naive(request.token_ids, request.params, self.config["num_pages"] * PAGE)
        assert list(done.token_ids) == expected[: len(done.token_ids)]
        assert done.finish_reason == "abort" or len(done.token_ids) == len(expected)
        known = max((common(request.token_ids, text) for text in self.said[request.salt]), default=0)
        others = max((common(request.token_ids, r.token_ids) for r in self.of(request.salt)), default=0)
        assert done.usage.cache_read_tokens <= max(known, others), "pages came from another tenant"
        self.said[request.salt].append((*request.token_ids, *done.token_ids))

    def of(self, salt):
        return [request for request in self.running.values() if request.salt == salt]

    @rule()
    def evict(self):
        """Push every warm page out."""
        lease = self.engine.cache.match([0])
        room = self.engine.cache.num_available * PAGE
        assert self.engine.cache.grow(lease, room)
        self.engine.cache.release(lease)

    @rule()
    def save(self):
        self.engine.save_pages()

    @rule()
    def restart(self):
        self.engine.close()
        self.lose_running()
        self.engine = make_engine(**self.config)

    @rule()
    def crash(self):
        """The process ends without a word; what was written is there."""
        self.lose_running()
        self.engine = None
        self.engine = make_engine(**self.config)

    @rule(seed=st.integers(0, 1 << 30))
    def damage(self, seed):
        """Bytes change while no engine looks, where something was written or anywhere; or a file gets shorter.

        The magic stays: a file without one is not ours, and is neither counted nor removed.
        """
        self.engine.close()
        self.lose_running()
        chance = random.Random(seed)
        for path in self.folder.glob("cold/pages-*.cold"):
            raw = bytearray(path.read_bytes())
            written = [at for at in np.flatnonzero(np.frombuffer(raw, np.uint8)).tolist() if at >= 16]
            for _ in range(chance.choice([1, 10, 100])):
                at = chance.choice(written) if chance.random() < 0.8 else chance.randrange(16, len(raw))
                raw[at] ^= 1 << chance.randrange(8)
            path.write_bytes(raw[: chance.randrange(16, len(raw))] if chance.random() < 0.2 else raw)
        self.engine = make_engine(**self.config)

    def lose_running(self):
        for request in self.running.values():
            self.said[request.salt].append(request.token_ids)
            if self.engine is not None:  # aborted, but may have got as far as its answer
                self.said[request.salt].append((*request.token_ids, *naive(request.token_ids, request.params)))
        self.running = {}

    @invariant()
    def everything_adds_up(self):
        if self.engine is not None:
            self.engine.cache.check()
            assert self.engine.cold_stats().num_bytes <= self.config["cold_bytes"]
            assert sum(path.stat().st_size for path in self.folder.glob("cold/*")) <= self.config["cold_bytes"]

    def teardown(self):
        if self.engine is not None:
            self.run_to_the_end()
            self.engine.cache.check()
            assert self.engine.cache.num_leased == 0
            self.engine.close()
        shutil.rmtree(self.folder)


def common(a, b) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.torture
def test_long_lives():
    run_state_machine_as_test(Life, settings=settings(max_examples=2000, stateful_step_count=80, deadline=None))


class Recording:
    """farthing's kernels, and a copy of every logit that they computed."""

    def __init__(self):
        self.logits: list[np.ndarray] = []

    def load(self, *args, **kwargs):
        return kernels.load(*args, **kwargs)

    def run(self, program, batch):
        logits = kernels.run(program, batch)
        self.logits.append(logits.copy())
        return logits

    def sample(self, *args, **kwargs):
        return kernels.sample(*args, **kwargs)


def run(model: Model, config: EngineConfig, request: Request) -> tuple[Engine, list[Token], np.ndarray, Done]:
    """The engine, still open, the tokens, logits [output tokens, V] and Done of one request."""
    recording = Recording()
    engine = Engine(model, config, kernels=recording)
    engine.submit(request)
    events = []
    while engine.has_work:
        events += engine.step()
    tokens = [(event.token_id, event.logprob, event.top_logprobs) for event in events if isinstance(event, Token)]
    return engine, tokens, np.concatenate([rows for rows in recording.logits if len(rows)]), events[-1]


@pytest.mark.parametrize("codec", kernels.codecs())
@pytest.mark.parametrize("isa", [*kernels.instruction_sets(), "reference"])
@pytest.mark.parametrize("is_on_disk", [False, True])
def test_a_hit_gives_the_logits_of_a_miss_bit_for_bit(codec, isa, is_on_disk, tmp_path):
    model = load_model(GOLDEN / "llama", weights="q4_1")
    prompt = tuple((i * i + 3 * i) % 290 for i in range(70))
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, logprobs=3)
    request = Request(token_ids=prompt, params=params)
    plain = {"num_threads": 1, "num_pages": 24, "k_codec": codec, "v_codec": codec, "isa": isa}
    config = EngineConfig(**plain, cold_bytes=8 << 20, cold_folder=tmp_path if is_on_disk else None)
    _, tokens, logits, done = run(model, EngineConfig(**plain, is_prefix_cached=False), request)
    assert done.usage.cache_read_tokens == 0
    engine, *first, _ = run(model, config, request)
    assert first[0] == tokens
    assert np.array_equal(first[1], logits)
    if is_on_disk:
        engine.close()
        engine, *second, done = run(model, config, request)
        assert second[0] == tokens
        assert np.array_equal(second[1], logits)
    else:
        push_out(engine)
        [done] = engine.generate([request])
        assert done.token_ids == tuple(token for token, *_ in tokens)
    assert done.usage.cache_read_tokens == 64
    assert engine.stats().num_cold_tokens == 64
    engine.close()


@pytest.mark.parametrize(("family", "weights", "product"), CASES[:4])
@settings(max_examples=5, deadline=None)
@given(
    script=scripts(vocab_size=300, max_prompt=60, max_tokens=20, max_requests=6).map(with_logprobs),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 70),
    num_pages=st.integers(6, 9),
    cold_bytes=st.sampled_from([100_000, 4 << 20]),
)
def test_any_schedule_on_real_arithmetic_and_again_after_a_restart(family, weights, product, script, **config):
    model = real(family, weights)
    oracle = Naive(model, product, 96)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            settings = EngineConfig(product=product, num_threads=1, cold_folder=Path(folder), **config)
            with Engine(model, settings) as engine:
                check(engine, oracle, script)


def push_out(engine: Engine) -> None:
    lease = engine.cache.match([0])
    assert engine.cache.grow(lease, engine.cache.num_available * engine.cache.page_size)
    engine.cache.release(lease)


@pytest.mark.parametrize("change", [
    {"k_codec": "f16"},
    {"v_codec": "f32"},
    {"product": "f32"},
    {"page_size": 32},
    {"isa": "reference"},
    {"isa": kernels.instruction_sets()[-1]},
    {"weights": "q8_0"},
    {"family": "qwen2"},
])  # fmt: skip
def test_what_another_setting_computed_is_not_found(change, tmp_path):
    if change.get("isa") == kernels.instruction_sets()[0]:
        pytest.skip("this machine has one instruction set")
    request = Request(token_ids=tuple(range(70)), params=SamplingParams(temperature=0, max_tokens=2))
    cold = {"cold_bytes": 256 << 20, "cold_folder": tmp_path}  # files are sparse; there is room for those of both

    def cached(family="llama", weights="q4_1", **settings) -> int:
        with Engine(
            load_model(GOLDEN / family, weights=weights), EngineConfig(num_pages=24, **settings, **cold)
        ) as engine:
            [done] = engine.generate([request])
            return done.usage.cache_read_tokens

    assert cached() == 0
    assert cached() == 64
    assert cached(**change) == 0
    assert cached() == 64


def test_other_weights_under_the_same_name_are_another_model(tmp_path):
    """One value of one matrix differs: nothing of the first model may be found."""
    request = Request(token_ids=tuple(range(70)), params=SamplingParams(temperature=0, max_tokens=2))
    shutil.copytree(GOLDEN / "llama", tmp_path / "llama")
    config = EngineConfig(num_pages=24, cold_bytes=8 << 20, cold_folder=tmp_path / "cold")
    for expected in (0, 64):
        with Engine(load_model(tmp_path / "llama"), config) as engine:
            assert engine.generate([request])[0].usage.cache_read_tokens == expected
    path = tmp_path / "llama" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with Engine(load_model(tmp_path / "llama"), config) as engine:
        assert engine.generate([request])[0].usage.cache_read_tokens == 0


def test_a_build_of_its_own(tmp_path, monkeypatch):
    request = greedy(*range(30), max_tokens=2)
    config = {"cold_bytes": ROOM, "cold_folder": tmp_path}
    for build, expected in (("one", 0), ("one", 24), ("two", 0)):
        monkeypatch.setattr(kernels, "build", lambda build=build: build)
        with make_engine(**config) as engine:
            assert engine.generate([request])[0].usage.cache_read_tokens == expected


def test_tenants_do_not_see_each_other(tmp_path):
    """Nor by swapping the files of their folders: the salt is in every digest."""
    folders = {salt: tmp_path / salt for salt in ("a", "b")}

    def cached(folder: str, salt: str) -> int:
        with make_engine(cold_bytes=ROOM, cold_folder=folders[folder]) as engine:
            return engine.generate([greedy(*range(30), max_tokens=2, salt=salt)])[0].usage.cache_read_tokens

    assert [cached("a", "a"), cached("a", "a"), cached("a", "b"), cached("a", "b")] == [0, 24, 0, 24]
    assert [cached("b", "b"), cached("b", "")] == [0, 0]
    folders["b"], folders["a"] = folders["a"], folders["b"]
    assert cached("a", "a") == 0, "what b's folder holds is of b and of nobody"
    assert cached("b", "a") == 24

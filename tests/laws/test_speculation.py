"""Law 5: drafts change no answer. Tokens, text, log-probabilities and ends are those of the engine without them,
sampled ones too, whoever drafts, in any company and any shortage; and no page that can be found holds a refused draft.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from farthing.engine import Engine, EngineConfig
from farthing.engine.draft_model import DraftModel as JointDraftModel
from farthing.engine.speculative import PromptLookup
from farthing.models import load_model
from farthing.request import Request, SamplingParams
from tests.engine.fake import VOCAB_SIZE, greedy, make_draft_model, make_engine, naive, stored
from tests.engine.play import Played, Script, play, scripts

GOLDEN = Path(__file__).parent.parent / "golden"


class Mistaken:
    """Knows the answers, and is wrong at any place with the given chance: 0 is an oracle, 1 never right."""

    def __init__(self, answers: list[tuple[int, ...]], mistakes: float, vocab_size: int = VOCAB_SIZE) -> None:
        self.answers, self.mistakes, self.vocab_size = answers, mistakes, vocab_size
        self.random = np.random.default_rng(0)

    def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:
        n = len(token_ids)
        known = next((a for a in self.answers if a[:n] == tuple(token_ids.tolist())), ())
        drafts = np.array(known[n : n + max_tokens], np.int32)
        wrong = self.random.random(len(drafts)) < self.mistakes
        shifts = wrong * self.random.integers(1, self.vocab_size, len(drafts))
        return ((drafts + shifts) % self.vocab_size).astype(np.int32)


class Chaos:
    """Any number of any tokens, the end of sequence among them."""

    def __init__(self, seed: int, vocab_size: int = VOCAB_SIZE) -> None:
        self.random, self.vocab_size = np.random.default_rng(seed), vocab_size

    def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:  # noqa: ARG002
        return self.random.integers(0, self.vocab_size, self.random.integers(0, max_tokens + 1)).astype(np.int32)


class DraftModel:
    """Another engine that continues greedily: what it has computed stays in its own prefix tree."""

    def __init__(self) -> None:
        self.engine = make_engine(num_pages=128)

    def propose(self, token_ids: np.ndarray, max_tokens: int) -> np.ndarray:
        (done,) = self.engine.generate([greedy(*token_ids.tolist(), max_tokens=max_tokens, ignore_eos=True)])
        return np.array(done.token_ids, np.int32)


@st.composite
def varied(draw, script: Script) -> Script:
    """The script's requests, some of them sampled, penalized, with stop strings or log-probabilities."""

    def vary(request: Request) -> Request:
        params = replace(
            request.params,
            temperature=draw(st.sampled_from([0.0, 0.0, 0.7, 1.5])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.2, 0.8])),
            seed=draw(st.integers(0, 3)),
            stop=tuple(draw(st.lists(st.text("abcdefgh .", min_size=1, max_size=2), max_size=2))),
            logprobs=draw(st.sampled_from([None, 0, 3])),
        )
        return replace(request, params=params)

    return Script([(at, vary(request)) for at, request in script.requests], script.aborts)


def same(script: Script, plain: Played, drafted: Played) -> None:
    """What was told about every request is the same; of an aborted one, as far as both came."""
    for i, done in plain.done.items():
        other = drafted.done[i]
        tokens, others = plain.tokens.get(i, []), drafted.tokens.get(i, [])
        if "abort" in (done.finish_reason, other.finish_reason):
            n = min(len(tokens), len(others))
            tokens, others = tokens[:n], others[:n]
        else:
            assert (other.finish_reason, other.text, other.token_ids) == (done.finish_reason, done.text, done.token_ids)
            assert other.usage.output_tokens == done.usage.output_tokens == len(done.token_ids)
            assert other.usage.input_tokens == len(script.requests[i][1].token_ids)
        assert [replace(t, request_id=0) for t in others] == [replace(t, request_id=0) for t in tokens]


def conserved(engine: Engine, played: Played) -> None:
    stats = engine.stats()
    usages = [done.usage for done in played.done.values()]
    assert math.isclose(math.fsum(usage.compute_s for usage in usages), stats.busy_s, abs_tol=1e-9)
    assert sum(usage.output_tokens for usage in usages) == stats.num_output_tokens
    assert 0 <= stats.num_accepted_tokens <= stats.num_draft_tokens


def eager(patch: pytest.MonkeyPatch) -> None:
    """Further tokens of a step cost nothing: as many drafts as there is room for."""
    patch.setattr("farthing.engine.speculative.step_cost", lambda num_tokens: 1 + 1e-9 * num_tokens)


def drafters(kind: str, script: Script, plain: Played) -> Callable[[], object] | None:
    answers = [(*script.requests[i][1].token_ids, *done.token_ids) for i, done in plain.done.items()]
    return {
        "oracle": lambda: Mistaken(answers, 0),
        "often right": lambda: Mistaken(answers, 0.2),
        "never right": lambda: Mistaken(answers, 1),
        "chaos": lambda: Chaos(len(answers)),
        "draft model": DraftModel,
        "prompt lookup": PromptLookup,
        "joint and prompt lookup": PromptLookup,
    }.get(kind)


def joint(kind: str, seed: int) -> JointDraftModel | None:
    """The model as its own draft model, with room for anything from one page to all."""
    random = np.random.default_rng(seed)
    return (
        make_draft_model(num_pages=int(random.integers(1, 64)), most_tokens=int(random.integers(1, 64)))
        if (kind.startswith("joint"))
        else None
    )


KINDS = (
    "joint draft model",
    "joint and prompt lookup",
    "oracle",
    "often right",
    "never right",
    "chaos",
    "draft model",
    "prompt lookup",
)

any_speculation = given(
    script=scripts(VOCAB_SIZE - 1, max_prompt=40, max_tokens=24).flatmap(varied),
    kind=st.sampled_from(KINDS),
    is_eager=st.booleans(),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 50),
    max_draft_tokens=st.integers(1, 16),
    num_pages=st.integers(6, 20),
    context=st.sampled_from([41, 48, 512]),
    is_prefix_cached=st.booleans(),
    is_kv_cached=st.sampled_from([True, True, True, False]),
)


def check(script: Script, kind: str, is_eager: bool, **config) -> float:
    """The seconds that were spent in a joint drafter."""
    plain = play(make_engine(**config), script)
    with pytest.MonkeyPatch.context() as patch:
        if is_eager:
            eager(patch)
        shared = joint(kind, len(script.requests))
        engine = make_engine(make_drafter=drafters(kind, script, plain), joint_drafter=shared, **config)
        drafted = play(engine, script)
    same(script, plain, drafted)
    conserved(engine, drafted)
    assert shared is None or len(shared._free) == shared.kv.num_pages
    return engine.stats().draft_s


def test_drafts_change_no_answer():
    draft_s = []

    @settings(max_examples=150, deadline=None)
    @any_speculation
    def examples(**case):
        draft_s.append(check(**case))

    examples()
    assert sum(draft_s) > 0, "no joint drafter was ever asked"


@pytest.mark.torture
@settings(max_examples=20_000, deadline=None)
@any_speculation
def test_many_drafts_change_no_answer(**case):
    check(**case)


@pytest.mark.parametrize(("family", "weights", "product"), [("llama", "q4_1", "int8"), ("qwen3", None, "f32")])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=scripts(vocab_size=300, max_prompt=40, max_tokens=30, max_requests=5).flatmap(varied),
    kind=st.sampled_from(["often right", "prompt lookup"]),
    codec=st.sampled_from(["f16", "q8"]),
    num_pages=st.integers(5, 12),
)
def test_on_real_arithmetic(family, weights, product, script, kind, codec, num_pages):
    model = load_model(GOLDEN / family, weights=weights)
    config = EngineConfig(product=product, num_threads=2, num_pages=num_pages, k_codec=codec, v_codec=codec)
    plain = play(Engine(model, config), script)
    with pytest.MonkeyPatch.context() as patch:
        eager(patch)
        engine = Engine(model, config, make_drafter=drafters(kind, script, plain))
        drafted = play(engine, script)
    same(script, plain, drafted)
    conserved(engine, drafted)


@pytest.mark.parametrize("kind", ["oracle", "often right", "never right"])
def test_what_can_be_found_again_was_never_refused(kind, monkeypatch):
    """After every step each page of the prefix tree holds tokens of a prompt and its answer, and their own values."""
    eager(monkeypatch)
    prompts = [tuple(range(i, i + 11)) for i in range(3)]
    params = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)
    whole = [(*prompt, *naive(prompt, params)) for prompt in prompts]
    engine = make_engine(make_drafter=lambda: Mistaken(whole, {"oracle": 0, "often right": 0.2}.get(kind, 1)))
    for prompt in prompts:
        engine.submit(Request(token_ids=prompt, params=params))
    num_seen = 0
    while engine.has_work:
        engine.step()
        engine.cache.check()
        for node in engine.cache._tree.nodes():
            path, page = node.tokens, node.page
            while (node := node.parent).parent is not None:
                path = node.tokens + path
            assert page is not None  # nobody announces prompts of this length after the first step
            tokens = np.frombuffer(path, np.int32)
            assert any(answer[: len(tokens)] == tuple(tokens.tolist()) for answer in whole)
            values = stored(tokens, range(len(tokens)))[-engine.cache.page_size :]
            assert (engine.program.memory[page] == values).all()
            num_seen += 1
    stats = engine.stats()
    assert num_seen > 50
    assert stats.num_draft_tokens > 0
    assert (stats.num_accepted_tokens == 0) == (kind == "never right")
    if kind == "oracle":
        assert stats.num_steps < 60 // 4


def test_drafts_put_nobody_out():
    """Two sequences that just fit into the pages: drafts get what is left, and nobody is preempted for them."""
    requests = [greedy(*range(i, i + 8), max_tokens=40, ignore_eos=True) for i in (0, 9)]
    answers = [(*r.token_ids, *naive(r.token_ids, r.params)) for r in requests]
    with pytest.MonkeyPatch.context() as patch:
        eager(patch)
        engine = make_engine(num_pages=12, make_drafter=lambda: Mistaken(answers, 0.1))
        done = engine.generate(requests)
    assert [(*r.token_ids, *d.token_ids) for r, d in zip(requests, done, strict=True)] == answers
    assert engine.stats().num_preemptions == 0
    assert engine.stats().num_accepted_tokens > 20


def test_a_prompt_lacks_nothing_when_drafts_are_many(monkeypatch):
    """A long prompt beside an answer with an oracle takes as many steps as without drafts."""
    eager(monkeypatch)
    first, long = greedy(1, 2, 3, max_tokens=200, ignore_eos=True), greedy(*[5, 6] * 50, max_tokens=1)
    answer = (*first.token_ids, *naive(first.token_ids, first.params))
    engine = make_engine(max_num_batched_tokens=16, make_drafter=lambda: Mistaken([answer], 0))
    engine.submit(first)
    engine.step()
    id = engine.submit(long)
    for _ in range(-(-100 // 15)):
        events = engine.step()
    assert id in {event.request_id for event in events}


def test_without_kv_cache_there_are_no_drafts():
    engine = make_engine(is_kv_cached=False, speculation="prompt-lookup")
    engine.generate([greedy(*[1, 2, 3] * 6, max_tokens=20, ignore_eos=True)])
    assert engine.stats().num_draft_tokens == 0


@pytest.mark.parametrize(
    ("family", "weights", "product", "draft"),
    [("llama", "q4_1", "int8", "llama"), ("llama", "q4_1", "int8", "qwen3"), ("qwen3", None, "f32", "qwen3")],
)
def test_a_draft_model_on_real_arithmetic(family, weights, product, draft):
    """The model's own file as its draft model, which is often right, and a stranger with its vocabulary; as if it cost
    nothing, for several sequences, some of which are put out for want of pages."""
    model = load_model(GOLDEN / family, weights=weights)
    crowd = Script([(0, greedy(*range(i, i + 30), max_tokens=30, ignore_eos=True)) for i in range(3, 6)], [])
    draft_s, num_accepted, num_preemptions = [], [], []

    @settings(max_examples=20, deadline=None)
    @given(
        script=scripts(vocab_size=300, max_prompt=40, max_tokens=30, max_requests=5).flatmap(varied),
        codec=st.sampled_from(["f16", "q8"]),
        num_pages=st.integers(5, 12),
    )
    @example(script=crowd, codec="f16", num_pages=5)
    def examples(script, codec, num_pages):
        config = EngineConfig(product=product, num_threads=2, num_pages=num_pages, k_codec=codec, v_codec=codec)
        plain = play(Engine(model, config), script)
        with pytest.MonkeyPatch.context() as patch:
            eager(patch)
            patch.setattr("farthing.engine.draft_model.DraftModel.cost", lambda *_: 0.0)
            engine = Engine(model, replace(config, speculation=f"draft:{GOLDEN / draft}"))
            drafted = play(engine, script)
        same(script, plain, drafted)
        conserved(engine, drafted)
        assert len(engine._joint_drafter._free) == engine._joint_drafter.kv.num_pages
        stats = engine.stats()
        draft_s.append(stats.draft_s)
        num_accepted.append(stats.num_accepted_tokens)
        num_preemptions.append(stats.num_preemptions)

    examples()
    assert sum(draft_s) > 0, "the draft model was never asked"
    assert sum(num_accepted) > 0 or draft != family
    assert sum(num_preemptions) > 0


def test_one_run_of_the_draft_model_for_all_who_ask():
    """Four sequences in step, and a draft model that is right: as many runs as places ahead, not four times as many."""
    with pytest.MonkeyPatch.context() as patch:
        eager(patch)
        draft = make_draft_model()
        runs = []
        run = draft._run_program
        draft._run_program = lambda program, batch: runs.append(len(batch.seq_starts) - 1) or run(program, batch)
        engine = make_engine(joint_drafter=draft)
        requests = [greedy(*range(i, i + 8), max_tokens=40, ignore_eos=True) for i in range(4)]
        done = engine.generate(requests)
    assert [list(d.token_ids) for d in done] == [naive(r.token_ids, r.params) for r in requests]
    stats = engine.stats()
    assert stats.num_accepted_tokens > 100
    assert len(runs) < stats.num_accepted_tokens / 2
    assert max(runs) == 4


def test_the_model_that_drafts_for_itself_is_always_right():
    engine = make_engine(make_drafter=DraftModel)
    (done,) = engine.generate([greedy(1, 2, 3, max_tokens=50, ignore_eos=True)])
    stats = engine.stats()
    assert list(done.token_ids) == naive((1, 2, 3), SamplingParams(temperature=0, max_tokens=50, ignore_eos=True))
    assert stats.num_accepted_tokens == stats.num_draft_tokens > 40 - stats.num_steps

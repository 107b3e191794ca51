"""Law 1 on real arithmetic: tokens and log-probabilities equal the one-token-at-a-time loop's, bit for bit."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farthing import kernels
from farthing.engine import Engine, EngineConfig
from farthing.engine.calibration import centre_keys
from farthing.errors import ModelNotFound
from farthing.kernels.codecs import parse_codecs
from farthing.kernels.plan import Batch, KVSpec
from farthing.models import Model, load_model
from farthing.models.hub import find_model
from farthing.request import Request, SamplingParams
from tests.engine.play import Script, play, scripts

GOLDEN = Path(__file__).parent.parent / "golden"
CASES = [
    ("llama", None, "f32"),
    ("llama", "q8_0", "int8"),
    ("qwen2", "q4_0", "int8"),
    ("qwen3", "q4_1", "int8"),
    ("qwen3", "q4_0", "f32"),
    ("mixtral", "q4_1", "int8"),
    ("olmoe", None, "f32"),
    ("qwen2_moe", "q8_0", "int8"),
    ("gemma3_text", "q8_0", "int8"),
    ("gemma3_text", None, "f32"),
]
PAGE = 16


@lru_cache(maxsize=1)
def golden(family: str, weights: str | None) -> Model:
    return load_model(GOLDEN / family, weights=weights)


class Naive:
    """One token per run, one page after the other, nothing kept from one request to the next."""

    def __init__(self, model: Model, product: str, num_tokens: int, kv: str = EngineConfig().kv) -> None:
        c = model.config
        num_pages = -(-num_tokens // PAGE)
        spec = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, num_pages, PAGE, *parse_codecs(kv), num_edge_layers=0)
        self.model, self.max_len = model, num_pages * PAGE
        self.program = kernels.load(model.plan(product), spec, num_threads=1)
        centre_keys(self.program, spec, model.tokenizer)
        self.page_table = np.arange(num_pages, dtype=np.int32)[None]  # [1, num_pages]

    def logits(self, token_id: int, position: int) -> np.ndarray:
        one = np.zeros(1, np.int32)
        token, at, starts = one + np.int32(token_id), one + np.int32(position), np.array([0, 1], np.int32)
        return kernels.run(self.program, Batch(token, at, starts, self.page_table, one))  # [1, V]

    def sample(self, logits: np.ndarray, num_top: int) -> kernels.Sampled:
        ones, none = np.ones(1, np.float32), np.zeros(0, np.int32)
        greedy = {"temperature": 0 * ones, "top_k": np.zeros(1, np.int32), "top_p": ones, "min_p": 0 * ones}
        rest = {"penalty": ones, "seed": np.zeros(1, np.uint64), "step": np.zeros(1, np.uint64), "history": none}
        wants = {"num_top": num_top, "wants_logprob": np.ones(1, np.uint8), "history_starts": np.zeros(2, np.int64)}
        return kernels.sample(self.program, logits, **greedy, **rest, **wants)

    def answer(self, request: Request) -> list[tuple]:
        """(token, its logprob, likeliest tokens and theirs) of each output token."""
        params, tokens = request.params, list(request.token_ids)
        for position, token in enumerate(tokens[:-1]):
            self.logits(token, position)
        out = []
        while len(out) < params.max_tokens:
            got = self.sample(self.logits(tokens[-1], len(tokens) - 1), params.logprobs)
            if int(got.token[0]) in self.model.eos_ids and not params.ignore_eos:
                break
            top = tuple(zip(got.top_token[0].tolist(), got.top_logprob[0].tolist(), strict=True))
            out.append((int(got.token[0]), float(got.logprob[0]), top))
            tokens.append(out[-1][0])
        return out


def check(engine: Engine, naive: Naive, script: Script) -> None:
    """Every request's answer is the naive one, or its beginning if it was aborted."""
    played = play(engine, script)
    for i, (_, request) in enumerate(script.requests):
        done = played.done[i]
        got = [(token.token_id, token.logprob, token.top_logprobs) for token in played.tokens.get(i, [])]
        got = got[: len(done.token_ids)]  # an end of sequence may set held text free
        assert [token for token, *_ in got] == list(done.token_ids)
        expected = naive.answer(request)
        assert got == (expected if done.finish_reason != "abort" else expected[: len(got)])


def with_logprobs(script: Script) -> Script:
    def asked(request: Request) -> Request:
        p = request.params
        params = SamplingParams(temperature=0, max_tokens=p.max_tokens, ignore_eos=p.ignore_eos, logprobs=2)
        return Request(token_ids=request.token_ids, params=params, salt=request.salt)

    return Script([(at, asked(request)) for at, request in script.requests], script.aborts)


@pytest.mark.parametrize(("family", "weights", "product"), CASES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=scripts(vocab_size=300, max_prompt=60, max_tokens=20, max_requests=6).map(with_logprobs),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 70),
    num_pages=st.integers(6, 12),
)
def test_any_schedule_gives_the_naive_answer(family, weights, product, script, **config):
    model = golden(family, weights)
    engine = Engine(model, EngineConfig(product=product, page_size=PAGE, num_threads=1, **config))
    check(engine, Naive(model, product, 96), script)


@pytest.mark.parametrize("kv", ["f32", "f16", "tq4", "tq3", "tq2", "q8/tq4", "tq3/f16"])
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=scripts(vocab_size=300, max_prompt=60, max_tokens=20, max_requests=6).map(with_logprobs),
    max_num_seqs=st.integers(1, 5),
    max_num_batched_tokens=st.integers(1, 70),
    num_pages=st.integers(6, 12),
)
def test_with_every_codec(kv, script, **config):
    """A hit equals a miss, bit for bit: pages are read as codes, in the first prefill too."""
    model = golden("qwen3", "q4_1")
    k, v = parse_codecs(kv)
    codecs = EngineConfig(page_size=PAGE, num_threads=1, k_codec=k, v_codec=v, num_edge_layers=0, **config)
    check(Engine(model, codecs), Naive(model, "int8", 96, kv), script)


def prompts_with(prefix: list[int], tails: list[list[int]], max_tokens: int) -> Script:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=5)
    return Script([(i, Request(token_ids=(*prefix, *tail), params=params)) for i, tail in enumerate(tails)], [])


@pytest.mark.parametrize(("weights", "product"), [(None, "f32"), ("q4_1", "int8")])
@pytest.mark.parametrize("config", [
    {"max_num_batched_tokens": 512, "num_threads": 1},
    {"max_num_batched_tokens": 37, "num_threads": 2},
    {"max_num_batched_tokens": 300, "num_threads": 3, "num_pages": 21},
    {"max_num_batched_tokens": 111, "num_threads": 1, "is_kv_cached": False},
])  # fmt: skip
def test_across_segments_and_threads(weights, product, config):
    """More positions than attention takes at once (256); with 21 pages the second request is put out again."""
    model = golden("llama", weights)
    prefix = [(i * i + 3 * i) % 290 for i in range(250)]
    script = prompts_with(prefix, [[1, 2], [1, 2, 3, 4, 5]], max_tokens=12)
    engine = Engine(model, EngineConfig(product=product, page_size=PAGE, **{"num_pages": 64, **config}))
    check(engine, Naive(model, product, 272), script)


def test_the_embedded_model():
    """Two conversations under one system prompt, few pages, two threads."""
    try:
        path = find_model("smollm2-135m-instruct")
    except ModelNotFound:
        pytest.skip("the embedded model is not in the cache folder: farthing pull smollm2-135m-instruct")
    model = load_model(path)
    prefix = model.tokenizer.encode("You are a helpful assistant who answers in one short sentence about farthings.")
    tails = [model.tokenizer.encode(text) for text in (" What is a coin?", " What is the sea?")]
    script = prompts_with(prefix, tails, max_tokens=6)
    config = EngineConfig(num_threads=2, num_pages=4, max_num_batched_tokens=9, product="int8")
    check(Engine(model, config), Naive(model, "int8", 64), script)

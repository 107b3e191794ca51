"""The local engine as an upstream: what each field does to the answer, and what it used."""

import asyncio
import subprocess
import sys
import threading
import time
from decimal import Decimal

import pytest

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest, ModelNotFound
from farthing.models.template import encode_chat
from farthing.request import Message, Request, SamplingParams
from farthing.upstreams import Tally, UpstreamError
from farthing.upstreams.local import LocalUpstream
from farthing.upstreams.local_config import LocalConfig
from farthing.upstreams.local_model import LocalModel
from farthing.upstreams.local_prompt import GOLDEN
from tests.upstreams.tool_model import answer, call_of, reason_of, text_of, user, write_model


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("models") / "small", None)
    made = LocalUpstream("mine", LocalConfig(models=(str(folder),), threads=1))
    yield made
    asyncio.run(made.aclose())


def ask(upstream, body, wire="chat", **more):
    return asyncio.run(answer(upstream, body, wire, **more))


BODY = {"model": "x", "messages": user("Once upon a time"), "temperature": 0, "max_tokens": 12}
WITH_END = BODY | {"ignore_eos": True}


def engine_of(upstream):
    return upstream._models["small"].thread._engine


def answer_apart(upstream, request):
    """By an engine like the upstream's: that one's thread would step whatever it is given from here too."""
    with upstream._models["small"].thread._make_engine() as engine:
        (done,) = engine.generate([request])
    return done


def test_the_answer_is_the_engines_and_so_is_its_usage(upstream):
    chunks, tally = ask(upstream, WITH_END)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    done = answer_apart(upstream, Request(messages=(Message("user", "Once upon a time"),), params=params))
    assert text_of(chunks) == done.text
    assert reason_of(chunks) == "length"
    assert (tally.usage.input_tokens, tally.usage.output_tokens) == (done.usage.input_tokens, 12)
    assert tally.usage.compute_s > 0
    assert (tally.usage_source, tally.provider, tally.upstream, tally.is_local) == ("engine", "local", "mine", True)
    assert (tally.model, tally.is_cut) == ("small", False)
    assert tally.queue_s >= 0


def test_max_usage_is_the_exact_prompt_and_the_most_answer(upstream):
    call = call_of(upstream, BODY | {"n": 3})
    most = upstream.max_usage(call)
    chunks, tally = ask(upstream, BODY | {"n": 3, "ignore_eos": True})
    assert chunks
    assert most == Usage(tally.usage.input_tokens, 0, 36)
    unbounded = {"messages": BODY["messages"]}
    assert upstream.max_usage(call_of(upstream, unbounded)).output_tokens == 2048 - most.input_tokens
    capped = upstream.max_usage(call_of(upstream, unbounded | {"n": 2}, max_output_tokens=9))
    assert capped.output_tokens == 8


def test_what_was_measured_is_not_encoded_again(upstream, monkeypatch):
    call = call_of(upstream, WITH_END, id="measured")
    upstream.max_usage(call)
    monkeypatch.setattr(upstream, "_encode", lambda call: pytest.fail(f"{call.id} is encoded twice"))

    async def main():
        return [chunk async for chunk in upstream.stream(call, Tally())]

    assert reason_of(asyncio.run(main())) == "length"
    assert "measured" not in upstream._kept


def test_a_budget_ends_an_answer_at_its_reservation(upstream):
    chunks, tally = ask(upstream, WITH_END, max_output_tokens=5)
    assert (tally.usage.output_tokens, reason_of(chunks), tally.is_cut) == (5, "length", True)
    chunks, tally = ask(upstream, WITH_END | {"n": 2}, max_output_tokens=7)
    assert (tally.usage.output_tokens, tally.is_cut) == (6, True)
    chunks, tally = ask(upstream, WITH_END, max_output_tokens=12)
    assert (tally.usage.output_tokens, tally.is_cut) == (12, False)
    with pytest.raises(UpstreamError) as caught:
        ask(upstream, WITH_END | {"n": 2}, max_output_tokens=1)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")


def test_seeds_repeat_and_choices_differ_and_the_first_is_the_only_one(upstream):
    body = WITH_END | {"temperature": 1, "seed": -7}
    first, again = text_of(ask(upstream, body)[0]), text_of(ask(upstream, body)[0])
    assert first == again
    several, _ = ask(upstream, body | {"n": 3})
    texts = [text_of(several, index) for index in range(3)]
    assert texts[0] == first
    assert len(set(texts)) == 3
    assert texts == [text_of(ask(upstream, body | {"n": 3})[0], index) for index in range(3)]
    seeds = [(-7 + index * GOLDEN) % 2**64 for index in range(3)]  # each choice is a request of its own
    assert texts == [text_of(ask(upstream, body | {"seed": seed})[0]) for seed in seeds]


def test_a_bias_of_a_token_that_does_not_exist_is_refused(upstream):
    with pytest.raises(UpstreamError, match="0 to 299") as caught:
        ask(upstream, BODY | {"logit_bias": {"300": 1}})
    assert (caught.value.status, caught.value.param) == (400, "logit_bias")


@pytest.mark.parametrize("extra", [{"top_k": 1}, {"min_p": 1}, {"top_p": 1e-6}])
def test_truncation_to_the_likeliest_is_greedy(upstream, extra):
    plain = text_of(ask(upstream, WITH_END)[0])
    assert text_of(ask(upstream, WITH_END | {"temperature": 1} | extra)[0]) == plain
    assert text_of(ask(upstream, WITH_END | {"top_k": -1, "top_p": 1, "min_p": 0})[0]) == plain


def test_biases_and_penalties_change_the_answer(upstream):
    id = engine_of(upstream).model.tokenizer.token_id("x")
    assert text_of(ask(upstream, WITH_END | {"logit_bias": {str(id): 100}})[0]) == "x" * 12
    plain = text_of(ask(upstream, WITH_END | {"max_tokens": 40})[0])
    for penalty in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        assert text_of(ask(upstream, WITH_END | {"max_tokens": 40, penalty: 2})[0]) != plain


def test_a_stop_string_ends_the_text_before_itself(upstream):
    id = str(engine_of(upstream).model.tokenizer.token_id("x"))
    body = WITH_END | {"logit_bias": {id: 100}}
    for stop in ("xxx", ["never", "xxx"]):
        chunks, tally = ask(upstream, body | {"stop": stop})
        assert (text_of(chunks), reason_of(chunks), tally.usage.output_tokens) == ("", "stop", 3)


def test_log_probabilities_have_every_tokens_bytes(upstream):
    chunks, _ = ask(upstream, WITH_END | {"logprobs": True, "top_logprobs": 3})
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    assert len(tokens) == 12
    assert b"".join(token.data for token in tokens).decode("utf-8", "replace") == text_of(chunks)
    for token in tokens:
        assert token.logprob == pytest.approx(max(logprob for _, _, logprob in token.top))
        assert (token.token, token.data) == token.top[0][:2]
        assert len(token.top) == 3
    chunks, _ = ask(upstream, WITH_END | {"logprobs": True})
    assert all(token.top == () for chunk in chunks for token in chunk.logprobs)
    assert not any(chunk.logprobs for chunk in ask(upstream, WITH_END | {"logprobs": False})[0])


def test_newer_and_older_names_of_the_length_are_the_same(upstream):
    body = {key: value for key, value in WITH_END.items() if key != "max_tokens"}
    for name in ("max_tokens", "max_completion_tokens"):
        assert ask(upstream, body | {name: 4})[1].usage.output_tokens == 4


def test_parts_of_text_and_null_fields_and_what_the_server_reads_change_nothing(upstream):
    plain = text_of(ask(upstream, WITH_END)[0])
    parts = [{"type": "text", "text": "Once upon"}, {"type": "text", "text": " a time"}]
    body = WITH_END | {"messages": [{"role": "user", "content": parts, "id": "msg_1"}]}
    nothing = {
        "user": "u",
        "prompt_cache_key": "p",
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "stream": True,
        "top_logprobs": 0,
        "modalities": ["text"],
        "functions": [],
        "reasoning_effort": "none",
    }
    nothing |= {"stream_options": {"include_usage": True}, "n": None, "foo": None, "response_format": {"type": "text"}}
    assert text_of(ask(upstream, body | nothing)[0]) == plain


def test_a_developer_is_the_system_where_the_template_knows_none(upstream):
    texts = [
        text_of(ask(upstream, WITH_END | {"messages": [{"role": role, "content": "Be short."}, *user("hi")]})[0])
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


def test_completions_take_text_ids_and_several_of_each(upstream):
    tokenizer = engine_of(upstream).model.tokenizer
    ids = tokenizer.encode("Once upon")
    body = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    plain, tally = ask(upstream, body | {"prompt": "Once upon"}, "completions")
    assert tally.usage.input_tokens == len(ids)
    assert text_of(ask(upstream, body | {"prompt": ids}, "completions")[0]) == text_of(plain)
    other = text_of(ask(upstream, body | {"prompt": "a time"}, "completions")[0])
    for prompts in (["Once upon", "a time"], [ids, tokenizer.encode("a time")]):
        chunks, tally = ask(upstream, body | {"prompt": prompts, "n": 2}, "completions")
        assert [text_of(chunks, index) for index in range(4)] == [text_of(plain)] * 2 + [other] * 2
        assert tally.usage.input_tokens == len(ids) + len(tokenizer.encode("a time"))
        assert tally.usage.output_tokens == 24
    chunks, _ = ask(upstream, body | {"prompt": ids, "logprobs": 2}, "completions")
    assert [len(token.top) for chunk in chunks for token in chunk.logprobs] == [2] * 6
    assert ask(upstream, {"prompt": ids, "ignore_eos": True}, "completions")[1].usage.output_tokens == 16


def test_a_reader_that_goes_away_stops_the_work(upstream):
    async def main():
        tally = Tally()
        stream = upstream.stream(call_of(upstream, WITH_END | {"max_tokens": 1900}), tally)
        async for _ in stream:
            break
        await stream.aclose()
        return tally

    tally = asyncio.run(main())
    assert not engine_of(upstream).has_work
    engine_of(upstream).cache.check_idle()
    assert 1 <= tally.usage.output_tokens < 1900
    assert tally.usage.compute_s > 0


def test_prompts_of_one_salt_are_found_again_and_public_ones_by_all(upstream):
    system = {"role": "system", "content": "You are a very helpful assistant who knows everything about stories."}
    body = WITH_END | {"messages": [system, *user("Tell me one of them now, please")]}

    def cached(**more):
        return ask(upstream, body, **more)[1].usage.cache_read_tokens

    assert cached(salt="a", num_public_messages=1) == 0
    whole = cached(salt="a", num_public_messages=1)
    public = cached(salt="b", num_public_messages=1)
    assert 0 < public < whole
    assert cached(salt="c") == 0


@pytest.mark.parametrize(
    ("prompt", "param"), [({"messages": user("long " * 900)}, "messages"), ({"prompt": [5] * 2048}, "prompt")]
)
def test_a_prompt_that_is_too_long_says_both_numbers(upstream, prompt, param):
    with pytest.raises(UpstreamError, match=r"\d{4} tokens.*2048") as caught:
        ask(upstream, prompt, "chat" if "messages" in prompt else "completions")
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", [{"messages": user("long " * 300_000)}, {"prompt": ["hi", " " * 300_000]}])
def test_a_prompt_that_is_far_too_long_is_not_encoded(upstream, prompt, monkeypatch):
    ask(upstream, BODY)  # the model is loaded
    tokenizer = upstream._models["small"].load()[0].tokenizer
    monkeypatch.setattr(tokenizer, "_plain", lambda _text: pytest.fail("encoded"))
    with pytest.raises(UpstreamError, match=r"at least \d+ tokens.*2048") as caught:
        ask(upstream, prompt, "chat" if "messages" in prompt else "completions")
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert caught.value.param == next(iter(prompt))


def test_an_unknown_model_is_not_found(upstream):
    async def main():
        call = call_of(upstream, BODY)
        return [
            chunk async for chunk in upstream.stream(type(call)(id="1", wire="chat", body=BODY, model="y"), Tally())
        ]

    with pytest.raises(UpstreamError, match="there are: small") as caught:
        asyncio.run(main())
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_model_that_cannot_be_loaded_fails_its_calls_and_the_start(tmp_path):
    made = LocalUpstream("mine", LocalConfig(models=(str(tmp_path / "nothing"),)))
    with pytest.raises(UpstreamError) as caught:
        ask(made, BODY)
    assert (caught.value.status, caught.value.code) == (503, "model_unavailable")
    assert str(tmp_path) not in str(caught.value).replace(made._models.popitem()[0], "")
    with pytest.raises(ModelNotFound):
        asyncio.run(LocalUpstream("mine", LocalConfig(models=(str(tmp_path / "nothing"),))).start())


def test_models_are_loaded_at_the_start_or_when_they_are_needed(tmp_path):
    folders = [write_model(tmp_path / name, None) for name in ("one", "two")]

    async def main(preload):
        made = LocalUpstream("mine", LocalConfig(models=tuple(map(str, folders)), preload=preload, threads=1))
        await made.start()
        before = sorted(made.engine_figures())
        await answer(made, BODY)
        figures = made.engine_figures()
        assert await made.models() == ["one", "two"]
        assert figures["one"][1].num_output_tokens == 12
        await made.aclose()
        return before, sorted(figures)

    assert asyncio.run(main(True)) == (["one", "two"], ["one", "two"])
    assert asyncio.run(main(False)) == ([], ["one"])


def test_what_is_closed_while_a_model_is_loaded_leaves_no_engine(tmp_path, monkeypatch):
    """A server that is stopped while it starts: the model would outlive it, and its thread too."""
    folder = write_model(tmp_path / "small", None)
    begun, load = threading.Event(), LocalModel.load

    def slow(model):
        begun.set()
        time.sleep(0.2)
        return load(model)

    monkeypatch.setattr(LocalModel, "load", slow)

    async def close_while_loading():
        made = LocalUpstream("mine", LocalConfig(models=(str(folder),), threads=1))
        starting = asyncio.create_task(made.start())
        await asyncio.to_thread(begun.wait)
        starting.cancel()
        await made.aclose()
        return made._models["small"].thread

    thread = asyncio.run(close_while_loading())
    assert not thread._thread.is_alive()


def test_importing_the_upstream_imports_nothing_heavy():
    code = "import sys, farthing.upstreams.local; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["numpy", "tokenizers", "llguidance", "jinja2", "farthing.engine", "farthing.models", "farthing._native"]
    run = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


class TestConfig:
    def test_a_table_has_the_engines_names(self, tmp_path):
        table = {"kind": "local", "kv": "q8/f16", "threads": 1, "max_num_seqs": 3, "kv_bytes": 1 << 20}
        table |= {"product": "f32", "speculation": "prompt-lookup", "cold_folder": str(tmp_path), "models": ["a"]}
        made = LocalUpstream.from_config("mine", table, HostCost(usd_per_hour=Decimal(1)))
        engine = made.config.engine("hf:a/b")
        assert (engine.k_codec, engine.v_codec, engine.product) == ("q8", "f16", "f32")
        assert (engine.num_threads, engine.max_num_seqs, engine.kv_bytes) == (1, 3, 1 << 20)
        assert (engine.speculation, engine.cold_bytes) == ("prompt-lookup", 1 << 30)
        assert engine.cold_folder == tmp_path / "hf-a-b"

    def test_two_models_of_one_name_are_refused(self, tmp_path):
        folders = [tmp_path / "a" / "same", tmp_path / "b" / "same"]
        for folder in folders:
            folder.mkdir(parents=True)
        with pytest.raises(InvalidRequest, match="two that are called 'same'"):
            LocalUpstream.from_config("mine", {"models": list(map(str, folders))}, HostCost())

    def test_nothing_given_is_the_embedded_model_with_the_engines_defaults(self):
        from farthing.engine import EngineConfig

        config = LocalUpstream.from_config("mine", {"kind": "local"}, HostCost()).config
        assert config.models == ("smollm2-135m-instruct",)
        assert config.engine("x").kv_bytes == EngineConfig().kv_bytes

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            ({"model": ["a"]}, "did you mean models"),
            ({"models": []}, "a list"),
            ({"models": "a"}, "a list"),
            ({"models": ["a", "a"]}, "twice"),
            ({"threads": "2"}, "whole number"),
            ({"threads": True}, "whole number"),
            ({"preload": 1}, "true or false"),
            ({"kv": 8}, "a string"),
            ({"max_waiting": -1}, "0 or more"),
        ],
    )
    def test_what_is_not_known_or_of_the_wrong_kind_is_refused(self, table, said):
        with pytest.raises(InvalidRequest, match=said):
            LocalUpstream.from_config("mine", table, HostCost())

    @pytest.mark.parametrize("table", [{"kv": "q9"}, {"threads": 0}, {"product": "x"}, {"speculation": "x"}])
    def test_values_that_the_engine_refuses_are_refused_at_once(self, table):
        with pytest.raises(InvalidRequest):
            LocalUpstream.from_config("mine", table, HostCost()).config.engine("x")


def test_anthropics_wire_gets_the_same_answer(upstream):
    pytest.importorskip("farthing.upstreams.convert")
    body = {"model": "x", "max_tokens": 8, "temperature": 0, "top_k": 5, "stop_sequences": ["never seen"]}
    body |= {"system": "Be short.", "messages": user("Once upon a time"), "metadata": {"user_id": "u"}}
    chat = {"max_tokens": 8, "temperature": 0, "top_k": 5}
    chat |= {"messages": [{"role": "system", "content": "Be short."}, *user("Once upon a time")]}
    (ours, used), (theirs, tally) = ask(upstream, chat), ask(upstream, body, "messages")
    assert text_of(theirs) == text_of(ours)
    assert (tally.usage.input_tokens, tally.usage.output_tokens) == (used.usage.input_tokens, used.usage.output_tokens)


def test_anthropics_last_assistant_message_begins_the_answer(upstream):
    assistant = {"role": "assistant", "content": "The <|im_end|> sea is"}
    body = {"model": "x", "max_tokens": 8, "temperature": 0, "messages": [*user("Once upon a time"), assistant]}
    blocks = {
        "messages": [
            *user("Once upon a time"),
            {"role": "assistant", "content": [{"type": "text", "text": assistant["content"]}]},
        ]
    }
    chunks, tally = ask(upstream, body, "messages")
    tokenizer = engine_of(upstream).model.tokenizer
    ids = encode_chat(tokenizer, user("Once upon a time"), begun=assistant["content"])
    assert ids[-20:] == tokenizer.encode("assistant\n" + assistant["content"])[-20:]  # what the client wrote is text
    params = SamplingParams(temperature=0, max_tokens=8)
    done = answer_apart(upstream, Request(token_ids=tuple(ids), params=params))
    assert text_of(chunks) == done.text
    assert tally.usage.input_tokens == len(ids)
    assert text_of(ask(upstream, body | blocks, "messages")[0]) == done.text
    chat = {"messages": body["messages"], "temperature": 0, "max_tokens": 8}
    assert ask(upstream, chat)[1].usage.input_tokens > len(ids)  # OpenAI's wire: a new answer follows it


def test_an_answer_to_nothing_is_not_continued(upstream):
    with pytest.raises(UpstreamError, match=r"messages\.0: there is nothing") as caught:
        ask(upstream, {"max_tokens": 8, "messages": [{"role": "assistant", "content": "a"}]}, "messages")
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")


def test_no_answer_is_longer_than_the_context(upstream):
    room = 2048 - upstream.max_usage(call_of(upstream, BODY)).input_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        body = {"messages": BODY["messages"], name: 2048}
        assert upstream.max_usage(call_of(upstream, body)).output_tokens == room
        with pytest.raises(UpstreamError, match=f"{name}: is 2049; this model holds 2048 tokens") as caught:
            upstream.max_usage(call_of(upstream, body | {name: 2049}))
        assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_value", name)

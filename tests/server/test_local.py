"""The official clients' tour over the real engine, with small models of random weights."""

import json
import time

import anthropic
import httpx2
import openai
import pytest
from openai import OpenAI

from farthing.ledger import LedgerConfig
from farthing.ledger.directory import add_budget
from farthing.ledger.key import insert_key
from farthing.ledger.opening import open_database
from tests.server.serving import GOLDEN, serving, small_local
from tests.upstreams.tool_model import write_model

MODEL = "llama"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    long = write_model(folder / "long", None)
    with serving(folder, small_local("llama", "qwen2", long)) as running:
        yield running


@pytest.fixture
def client(local):
    with OpenAI(base_url=local.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def said(text="ab"):
    return [{"role": "user", "content": text}]


def ask(client, **more):
    return client.chat.completions.create(**{"model": MODEL, "messages": said(), "max_tokens": 6, "seed": 7} | more)


def text_of(answer):
    return answer.choices[0].message.content


def streamed(client, **more):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **more))
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), chunks[-1].usage


def test_several_models_are_served(client):
    assert [model.id for model in client.models.list()] == ["llama", "qwen2", "long"]
    assert text_of(ask(client, model="qwen2"))


def test_whole_and_streamed_are_the_same_and_cost_the_same_tokens(client):
    whole = ask(client)
    text, usage = streamed(client)
    assert text == text_of(whole)
    assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.cost_usd > 0
    assert whole.usage.baseline_cost_usd > 0


def test_a_seed_repeats_and_n_gives_choices(client):
    assert text_of(ask(client, temperature=1.0)) == text_of(ask(client, temperature=1.0))
    answer = ask(client, n=3, temperature=1.0)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    chunks = list(ask(client, n=3, temperature=1.0, stream=True))
    texts = ["", "", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


def test_stop_strings_end_the_text_before_themselves(client):
    text = text_of(ask(client, temperature=0, max_tokens=20))
    mark = text[3]
    answer = ask(client, temperature=0, max_tokens=20, stop=[mark])
    assert text_of(answer) == text[: text.index(mark)]
    assert answer.choices[0].finish_reason == "stop"


def test_logprobs_and_bias(client):
    answer = ask(client, temperature=0, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert b"".join(bytes(entry.bytes) for entry in content).decode(errors="ignore").startswith(text_of(answer)[:1])
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in content)
    assert content[0].top_logprobs[0].token == content[0].token  # greedy
    biased = ask(client, temperature=0, logit_bias={"65": 100}, logprobs=True)
    assert len({entry.token for entry in biased.choices[0].logprobs.content}) == 1


def test_answers_hold_to_a_json_schema(client):
    schema = {
        "type": "object",
        "properties": {"ok": {"enum": [True, False]}, "n": {"enum": [1, 2, 3]}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = ask(client, response_format=form, temperature=1.0, max_tokens=60)
    assert set(json.loads(text_of(answer))) == {"ok", "n"}


@pytest.mark.parametrize(
    "more",
    [
        {"extra_body": {"mirostat": 1}},
        {"max_tokens": 2**40},
        {"temperature": 99.0},
        {"messages": said("x" * 5000)},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logit_bias": {"999999": 1}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
    ],
)
def test_what_the_model_cannot_do_is_refused(local, client, more):
    before = len(local.rows())
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert caught.value.code
    assert all(row.cost_pico == 0 or row.status == "error" for row in local.rows()[before:])


def test_completions_and_responses(client):
    answer = client.completions.create(model=MODEL, prompt=["ab", "ba"], max_tokens=4, temperature=0, logprobs=1)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
    response = client.responses.create(model=MODEL, input="ab", max_output_tokens=16, temperature=0)
    assert response.output_text
    events = client.responses.create(model=MODEL, input="ab", max_output_tokens=16, temperature=0, stream=True)
    last = list(events)[-1]
    assert last.type == f"response.{response.status}"
    assert last.response.output_text == response.output_text


def test_anthropics_client(local):
    with anthropic.Anthropic(base_url=local.url, api_key="none", max_retries=0) as client:
        ask = {"model": MODEL, "messages": said(), "max_tokens": 6, "extra_body": {"temperature": 0}}
        whole = client.messages.create(**ask)
        with client.messages.stream(**ask) as stream:
            assert stream.get_final_text() == whole.content[0].text
        counted = client.messages.count_tokens(model=MODEL, messages=said()).input_tokens
        assert whole.usage.input_tokens + whole.usage.cache_read_input_tokens == counted
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**ask | {"model": "none"})
        assert [model.id for model in client.models.list()] == ["llama", "qwen2", "long"]


def test_closing_a_stream_stops_computing(local, client):
    stream = ask(client, model="long", stream=True, max_tokens=1900, extra_body={"ignore_eos": True})
    next(stream)
    stream.close()
    end = time.monotonic() + 5
    while (rows := local.rows())[-1].request_id != stream.response.headers["x-request-id"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert rows[-1].status == "aborted"
    assert 1 <= rows[-1].output_tokens < 1900
    assert rows[-1].usage_source == "engine"
    assert rows[-1].cost_pico > 0


def test_metrics_know_the_engines(local, client):
    ask(client)
    text = client.get("/../metrics", cast_to=str)
    assert 'vllm:num_requests_running{model_name="llama"} 0.0' in text
    assert (GOLDEN / "llama").exists()
    assert local.rows()[-1].upstream == "local"


def test_a_budget_ends_an_answer_and_then_refuses(local, client):
    database = open_database(LedgerConfig(url=local.ledger))
    database.begin()
    key, secret = insert_key(database, "poor", None, (), None)
    add_budget(database, "budget", "key", key.id, "tokens", "day", 40)
    database.commit()
    database.close()
    poor = client.with_options(api_key=secret)
    wait_for(lambda: local.service.books._index.of(key.id, None, ()))
    options = {"max_tokens": 100, "extra_body": {"ignore_eos": True}}
    answer = ask(poor, **options)
    assert answer.usage.total_tokens == 40  # to the token
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.ended_by == "budget"
    with pytest.raises(openai.RateLimitError) as caught:
        ask(poor, stream=True, **options)
    assert caught.value.type == "insufficient_quota"
    assert ask(client, **options | {"max_tokens": 5}).usage.completion_tokens == 5  # nobody's budget is not hers


def wait_for(is_true, seconds=10.0):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("chat/completions", "max_tokens", {"messages": said()}),
        ("chat/completions", "max_completion_tokens", {"messages": said()}),
        ("completions", "max_tokens", {"prompt": "ab"}),
        ("responses", "max_output_tokens", {"input": "ab"}),
        ("messages", "max_tokens", {"messages": said()}),
    ],
)
def test_an_answer_longer_than_any_is_refused_by_the_name_of_its_field(local, path, field, more):
    answer = httpx2.post(f"{local.url}/v1/{path}", json={"model": "long", field: 2049, **more})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(f"{field}: is 2049; this model holds 2048 tokens")
    assert path == "messages" or (error["param"], error["code"]) == (field, "invalid_value")

"""The official clients ask a classifier: a small one of random weights, whose logits transformers has written down."""

import json
import math
import threading
import time

import anthropic
import httpx2
import numpy as np
import openai
import pytest
from openai import OpenAI

from farthing.router.config import RouterConfig
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from tests.engine.cascades import KNOWN, write_folder
from tests.server.serving import GOLDEN, serving
from tests.upstreams.slots import add_version, promote

MODEL = "classifier_llama"
CLASSIFIER = UpstreamEntry("small", "classifier", {"models": [str(GOLDEN / MODEL)], "threads": 1})
LABELS = ("card arrival", "lost_card", "über 30 %", "🙂", "exchange rate")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("classifier"), CLASSIFIER) as running:
        yield running


@pytest.fixture
def client(local):
    with OpenAI(base_url=local.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / MODEL / "golden.npz") as arrays:
        texts = json.loads(str(arrays["texts"]))
        return [(text, len(arrays[f"ids_{i}"]), arrays[f"logits_{i}"]) for i, text in enumerate(texts)]


def said(text):
    return [{"role": "user", "content": text}]


def ask(client, text="When will my card arrive?", **more):
    return client.chat.completions.create(**{"model": MODEL, "messages": said(text)} | more)


def schema(value):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value, "strict": True}}


def test_the_label_and_its_probability_are_those_of_transformers(client, golden):
    for text, num_tokens, logits in golden:
        answer = ask(client, text, logprobs=True, top_logprobs=5, temperature=0)
        [choice] = answer.choices
        assert choice.message.content == LABELS[logits.argmax()]
        assert choice.finish_reason == "stop"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (num_tokens, 1)
        [token] = choice.logprobs.content
        expected = logits - np.log(np.exp(logits).sum())
        assert token.logprob == pytest.approx(expected.max(), abs=0.01)
        assert [top.token for top in token.top_logprobs] == [LABELS[at] for at in np.argsort(-expected)]
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) == pytest.approx(1, abs=1e-5)


def test_the_last_thing_that_the_user_said_counts(client):
    before = [
        {"role": "system", "content": "Be brief."},
        *said("Something else"),
        {"role": "assistant", "content": "x"},
    ]
    assert ask(client, messages=[*before, *said("a")]).choices[0].message.content == text_of(client, "a")


def text_of(client, text, **more):
    return ask(client, text, **more).choices[0].message.content


def test_streamed_and_whole_are_the_same(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text_of(
        client, "When will my card arrive?"
    )
    assert chunks[-1].usage.completion_tokens == 1


@pytest.mark.parametrize("label_schema", [
    {"enum": list(LABELS)},
    {"$ref": "#/$defs/Intent"},
])  # fmt: skip
def test_an_object_with_the_label_where_a_schema_asks_for_it(client, label_schema):
    value = {
        "type": "object",
        "properties": {"intent": label_schema},
        "required": ["intent"],
        "additionalProperties": False,
        "$defs": {"Intent": {"type": "string", "enum": list(LABELS), "title": "Intent"}},
    }
    plain = text_of(client, "a")
    assert json.loads(text_of(client, "a", response_format=schema(value))) == {"intent": plain}
    choice = schema({"type": "string", "enum": list(LABELS)})
    assert json.loads(text_of(client, "a", response_format=choice)) == plain
    assert json.loads(text_of(client, "a", response_format={"type": "json_object"})) == {"label": plain}


def test_an_enum_of_some_labels_gets_the_likeliest_of_them(client, golden):
    text, _, logits = golden[0]
    others = [LABELS[at] for at in np.argsort(-logits)[2:]]
    form = schema({"type": "string", "enum": [*others, "no label of this model"]})
    assert json.loads(text_of(client, text, response_format=form)) == others[0]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"logit_bias": {"3": 1}},
        {"extra_body": {"mirostat": 1}},
        {"messages": [{"role": "system", "content": "x"}]},
        {"messages": said("x" * 5000)},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
        {"response_format": schema({"type": "string", "enum": ["nothing", "here"]})},
        {"response_format": schema({"type": "object", "properties": {"a": {"enum": ["x"]}, "b": {"type": "string"}}})},
        {"response_format": schema({"type": "integer"})},
        {"response_format": schema({"$ref": "#/$defs/none"})},
        {"response_format": schema({"$ref": "#"})},
    ],
)
def test_what_it_cannot_do_is_refused(client, more):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **more)
    assert caught.value.code
    assert text_of(client, "a") in LABELS


def test_other_wires(local, client):
    prompts = ["a", "When will my card arrive?"]
    answer = client.completions.create(model=MODEL, prompt=prompts, n=2, logprobs=2)
    assert [choice.text for choice in answer.choices] == [text_of(client, prompts[at]) for at in (0, 0, 1, 1)]
    assert answer.usage.completion_tokens == 4
    assert client.responses.create(model=MODEL, input="a").output_text == text_of(client, "a")
    with anthropic.Anthropic(base_url=local.url, api_key="none", max_retries=0) as other:
        message = other.messages.create(model=MODEL, messages=said("a"), max_tokens=16)
        assert message.content[0].text == text_of(client, "a")
        assert message.stop_reason == "end_turn"


def test_the_bill_and_the_metrics_have_it(local, client):
    before = len(local.rows())
    answer = ask(client)
    [row] = local.rows()[before:]
    assert (row.upstream, row.served_model, row.status, row.usage_source) == ("small", MODEL, "ok", "engine")
    assert row.price_status == "local"
    assert row.cost_pico > 0
    assert answer.usage.cost_usd > 0
    page = httpx2.get(local.url + "/metrics").text
    assert f'farthing_engine_steps_total{{model_name="{MODEL}"}}' in page
    assert f'farthing_model_version{{model_name="{MODEL}",version="{MODEL}"}} 1.0' in page
    assert client.models.list().data[0].id == MODEL


def test_a_cascade_is_billed_and_counted_by_stage(tmp_path):
    folder = write_folder(tmp_path / "intents")
    entry = UpstreamEntry("small", "classifier", {"models": [str(folder)], "threads": 1, "point": "cheapest"})
    with serving(tmp_path, entry) as server, OpenAI(base_url=server.url + "/v1", api_key="none") as client:
        answers = [ask(client, text, model="intents") for text in KNOWN]
        assert [answer.choices[0].message.content for answer in answers] == [*LABELS]
        assert all(answer.usage.cost_usd > 0 for answer in answers)
        page = httpx2.get(server.url + "/metrics").text
        assert 'farthing_cascade_answers_total{model_name="intents",stage="linear"} 5.0' in page
        assert {row.cost_pico > 0 for row in server.rows()} == {True}


def test_promotion_and_rollback_under_load_without_a_failed_request(tmp_path):
    slot = tmp_path / "intents"
    add_version(slot, "0001")
    add_version(slot, "0002", "qwen2")
    promote(slot, "0001")
    entry = UpstreamEntry("small", "classifier", {"models": [str(slot)], "threads": 1, "look_every_s": 0.02})
    seen, failed, is_over = [], [], threading.Event()

    def keep_asking(url):
        with OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
            while not is_over.is_set():
                try:
                    seen.append(ask(client, "a", model="intents").choices[0].message.content.split("/")[0])
                except Exception as error:
                    failed.append(error)

    with serving(tmp_path, entry) as server:
        clients = [threading.Thread(target=keep_asking, args=(server.url,)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            for version in ("0001", "0002", "0001"):
                promote(slot, version)
                end, start = time.monotonic() + 60, len(seen)
                while version not in seen[start:] and time.monotonic() < end:
                    time.sleep(0.01)
                assert version in seen[start:]
            page = httpx2.get(server.url + "/metrics").text
        finally:
            is_over.set()
            for client in clients:
                client.join()
        assert not failed
        assert 'farthing_model_swaps_total{model_name="intents"} 2.0' in page
        assert 'farthing_model_version{model_name="intents",version="0001"} 1.0' in page
        assert {row.served_model for row in server.rows()} == {"intents"}
        assert {row.status for row in server.rows()} == {"ok"}


def test_a_cascade_reads_the_labels_probability(tmp_path):
    echo = UpstreamEntry("echo", "echo", {"provider": "openai", "priced_as": "gpt-5-nano"})
    routes = (RouteEntry("small", MODEL), RouteEntry("echo", "gpt-5-nano"))

    def kept(threshold):
        config = RouterConfig(mode="cascade", min_confidence=threshold)
        with serving(tmp_path, CLASSIFIER, echo, models=(ModelEntry("auto", routes, router=config),)) as server:
            body = {"model": "auto", "messages": said("a")}
            answer = httpx2.post(server.url + "/v1/chat/completions", json=body)
            return answer.headers["x-farthing-route"], answer.json()["choices"][0]["message"]["content"]

    assert kept(0.0)[1] in LABELS
    assert kept(0.99)[1] == "a"  # the echo's

"""A router behind the whole server: two small local models and an echo, both official clients, metrics and the bill."""

from io import StringIO

import anthropic
import httpx2
import pytest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from farthing.errors import InvalidRequest
from farthing.report.bill import collect
from farthing.report.bill_json import to_json
from farthing.report.bill_routes import print_routes
from farthing.router.calibrate import Goal
from farthing.router.config import RouterConfig
from farthing.router.train import calibrate, train
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from tests.report.ledger_rows import MONTH
from tests.router.rows import labelled
from tests.router.test_signals import with_signals
from tests.server.serving import serving, small_local

ECHO = UpstreamEntry("echo", "echo", {"provider": "openai", "priced_as": "gpt-5-nano"})
TWO = (RouteEntry("local", "llama"), RouteEntry("local", "qwen2"))
UP = (RouteEntry("local", "llama"), RouteEntry("echo", "gpt-5-nano"))
LAW = "Say what the judge and the plea and the tort and the appeal have to do with 3 and 4?"
LABELS = ("router", "model", "route", "signal")
GARDEN = "Say what the rose and the soil and the seed and the water have to do with 3 and 4?"


@pytest.fixture(scope="module")
def router_file(tmp_path_factory):
    found = calibrate(train(labelled(300, seed=1)), labelled(400, seed=2), Goal("share", 0.9), "route")
    path = tmp_path_factory.mktemp("file") / "router.safetensors"
    found.save(path)
    return path


@pytest.fixture(scope="module")
def sampled_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "sampled.safetensors"
    calibrate(train(with_signals(200, 1)), with_signals(200, 2), Goal("share", 0.9), "cascade").save(path)
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory, router_file, sampled_file):
    models = (
        ModelEntry("kept", TWO, router=RouterConfig(mode="cascade", min_confidence=0.0)),
        ModelEntry("kept-or-up", UP, router=RouterConfig(mode="cascade", min_confidence=0.0)),
        ModelEntry("escalated", UP, router=RouterConfig(mode="cascade", min_confidence=1.0)),
        ModelEntry("sampled", UP, router=RouterConfig(file=sampled_file, mode="cascade", samples=3, price=-1e9)),
        ModelEntry("auto", UP, router=RouterConfig(file=router_file)),
    )
    with serving(tmp_path_factory.mktemp("router"), small_local("llama", "qwen2"), ECHO, models=models) as running:
        yield running


def ask(server, model, text, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 6, "seed": 7, **more}
    return httpx2.post(server.url + "/v1/chat/completions", json=body)


def rows_of(server, answer):
    return [row for row in server.rows() if row.request_id == answer.headers["x-farthing-request-id"]]


def test_a_draft_is_kept_and_costs_what_its_row_says(server):
    answer = ask(server, "kept", "ab")
    assert answer.headers["x-farthing-model"] == "llama"
    assert answer.headers["x-farthing-route"].startswith("cascade kept: confidence 0.")
    assert answer.json()["choices"][0]["logprobs"] is None
    direct = rows_of(server, answer)
    assert [(row.status, row.served_model) for row in direct] == [("ok", "llama")]
    assert answer.json()["usage"]["completion_tokens"] == direct[0].output_tokens


def test_an_escalated_call_costs_both_attempts(server):
    answer = ask(server, "escalated", "ab cd")
    assert answer.json()["choices"][0]["message"]["content"] == "ab cd"
    assert answer.headers["x-farthing-route"].startswith("cascade escalated: confidence 0.")
    draft, given = rows_of(server, answer)
    assert [(row.status, row.served_model) for row in (draft, given)] == [("discarded", "llama"), ("ok", "gpt-5-nano")]
    told = answer.headers["x-farthing-cost-usd"]
    assert f"{(draft.cost_pico + given.cost_pico) / 1e12:.12f}".rstrip("0") == told
    assert answer.json()["usage"]["completion_tokens"] == given.output_tokens == 2


def test_openais_client_streams_what_was_kept(server):
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        for model, served in (("kept", None), ("escalated", "ab cd")):
            more = {"max_tokens": 6, "seed": 7, "stream_options": {"include_usage": True}}
            chunks = list(
                client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "ab cd"}], stream=True, **more
                )
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            whole = ask(server, model, "ab cd").json()["choices"][0]["message"]["content"]
            assert text == whole == (served or whole)
            assert chunks[-1].usage.cost_usd > 0
            assert all(choice.logprobs is None for chunk in chunks for choice in chunk.choices)


def test_anthropics_client_is_answered_alike(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        for model, served in (("kept", None), ("escalated", "ab cd")):
            given = {"model": model, "max_tokens": 6, "messages": [{"role": "user", "content": "ab cd"}]}
            answer = client.messages.create(**given, extra_body={"temperature": 0})
            with client.messages.stream(**given, extra_body={"temperature": 0}) as stream:
                text = stream.get_final_text()
            assert text == answer.content[0].text == (served or text)


def test_log_probabilities_are_those_asked_for(server):
    plain = ask(server, "kept", "ab", logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    assert {len(entry["top_logprobs"]) for entry in plain} == {1}


def test_a_trained_file_sends_each_prompt_where_it_belongs(server):
    easy, hard = ask(server, "auto", GARDEN), ask(server, "auto", LAW)
    assert (easy.headers["x-farthing-upstream"], hard.headers["x-farthing-upstream"]) == ("local", "echo")
    assert " <= " in easy.headers["x-farthing-route"]
    assert hard.headers["x-farthing-route"].startswith("router: gap 0.")
    for _ in range(50):
        ask(server, "auto", LAW)
    metrics = {
        (sample.name, *(sample.labels[name] for name in LABELS if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(httpx2.get(server.url + "/metrics").text)
        for sample in family.samples
        if sample.name.startswith("farthing_router")
    }
    assert metrics["farthing_router_requests_total", "auto", "gpt-5-nano", "router"] == 51
    assert metrics["farthing_router_files_refused_total", "auto"] == 0
    assert metrics["farthing_router_drift_alarm", "auto", "expected gap"] == 1
    assert metrics["farthing_router_drift_psi", "auto", "expected gap"] > 0.05
    assert metrics["farthing_router_escalations_total", "escalated"] >= 1


def test_samples_share_the_prompt_with_the_draft(server):
    text = "a prompt that fills more than one page of the cache, " * 4
    answer = ask(server, "sampled", text)
    sample, draft, given = rows_of(server, answer)
    assert [row.status for row in (sample, draft, given)] == ["discarded", "discarded", "ok"]
    assert (sample.route, given.served_model) == ("cascade sample", "gpt-5-nano")
    assert draft.cache_read_tokens > 0.5 * draft.input_tokens
    assert answer.headers["x-farthing-route"].startswith("cascade escalated: p_right 0.")


def test_what_the_small_model_cannot_goes_to_the_next(server):
    long = ask(server, "kept-or-up", "word " * 3000)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    tools = ask(server, "kept-or-up", "ab", tools=[tool])
    for answer, route in ((long, "router context: "), (tools, "fallback: unsupported_parameter")):
        assert answer.status_code == 200
        assert answer.headers["x-farthing-upstream"] == "echo"
        assert answer.headers["x-farthing-route"].startswith(route)
        assert [row.served_model for row in rows_of(server, answer)][-1] == "gpt-5-nano"
    assert ask(server, "kept-or-up", "ab", temperature=9).status_code == 400


def test_the_response_cache_is_outside(tmp_path):
    models = (ModelEntry("up", UP, router=RouterConfig(mode="cascade", min_confidence=1.0)),)
    local = small_local("llama")
    with serving(tmp_path, local, ECHO, models=models, response_cache={"enabled": True}) as running:
        first, again = (ask(running, "up", "ab cd", temperature=0) for _ in "ab")
        assert (first.headers["x-farthing-cache"], again.headers["x-farthing-cache"]) == ("miss", "hit")
        assert again.json()["choices"] == first.json()["choices"]
        assert again.headers["x-farthing-cost-usd"] == "0"
        assert [row.status for row in running.rows()] == ["discarded", "ok", "ok"]


def test_the_bill_counts_a_discarded_draft_as_lost(server):
    answer = ask(server, "escalated", "ab cd")
    rows = rows_of(server, answer)
    bill = collect(rows, MONTH, ["route"])
    by_route = {entry["name"]: entry for entry in to_json(bill)["by"]["route"]}
    assert set(by_route) == {"cascade escalated → llama", "cascade escalated → gpt-5-nano"}
    assert by_route["cascade escalated → llama"]["rows_discarded"] == 1
    assert by_route["cascade escalated → llama"]["failed_or_discarded_cost_pico"] == rows[0].cost_pico
    assert bill.total.saving_pico == rows[1].baseline_pico - rows[0].cost_pico - rows[1].cost_pico
    assert bill.request_cost.num == 1
    console = Console(file=StringIO(), width=200)
    print_routes(bill, console)
    text = console.file.getvalue()
    assert "cascade escalated → gpt-5-nano" in text
    assert "100.0%" in text


@pytest.mark.parametrize(
    ("routes", "more", "said"),
    [
        ((*UP, TWO[1]), {}, "2 models"),
        (UP, {"mode": "cascade"}, "not calibrated"),
        (UP, {"samples": 2}, "without signals"),
    ],
)
def test_a_file_that_does_not_belong_here(tmp_path, router_file, routes, more, said):
    models = (ModelEntry("auto", routes, router=RouterConfig(file=router_file, **more)),)
    with (
        pytest.raises(InvalidRequest, match=said) as caught,
        serving(tmp_path, small_local("llama", "qwen2"), ECHO, models=models),
    ):
        pass
    assert "[[model]] 'auto'" in str(caught.value)

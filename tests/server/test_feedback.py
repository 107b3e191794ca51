"""POST /v1/feedback over a whole server; prompts are stored only where the configuration says so."""

from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from farthing.ledger import open_reader
from farthing.ledger.config import LedgerConfig
from farthing.ledger.key import insert_key
from farthing.ledger.opening import open_database, transaction
from farthing.report.route_ledger import ledger_lines
from farthing.router.config import RouterConfig
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from farthing.server.feedback import read_feedback
from farthing.upstreams import UpstreamError
from tests.server.serving import serving, small_local

CHAT = {
    "model": "play",
    "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "say a b"}],
}


def post(url: str, path: str, body: Any, secret: str | None = None) -> httpx.Response:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    return httpx.post(url + path, json=body, headers=headers, timeout=30)


def ask(url: str, secret: str | None = None, **more: Any) -> str:
    answer = post(url, "/v1/chat/completions", {**CHAT, **more}, secret)
    assert answer.status_code == 200
    return str(answer.headers["x-farthing-request-id"])


def say(url: str, secret: str | None = None, **body: Any) -> int:
    return post(url, "/v1/feedback", body, secret).status_code


def new_key(ledger: str, name: str) -> str:
    database = open_database(LedgerConfig(url=ledger))
    try:
        with transaction(database):
            return insert_key(database, name, None, (), None)[1]
    finally:
        database.close()


def test_feedback_reaches_the_ledger_and_the_metrics_without_its_comment(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        first, second = ask(server.url), ask(server.url)
        assert say(server.url, request_id=first, is_right=True, comment="my secret words") == 200
        assert say(server.url, request_id=f"chatcmpl-{second}", score=0.25) == 200
        assert say(server.url, request_id=second, preferred="gpt-5") == 200
        with open_reader(server.ledger) as reader:
            found = {row.request_id: row for row in reader.feedback()}
            assert reader.traffic() == []
        assert (found[first].score, found[first].preferred, found[first].served_model) == (1.0, None, "gpt-5-nano")
        assert (found[second].score, found[second].preferred) == (None, "gpt-5")
        metrics = httpx.get(server.url + "/metrics").text
        assert 'farthing_feedback_total{model_name="gpt-5-nano"} 3.0' in metrics
        assert 'farthing_feedback_score_total{model_name="gpt-5-nano"} 1.25' in metrics
        assert 'farthing_requests_total{endpoint="feedback",status="200"} 3.0' in metrics
    assert all(b"secret words" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_nobody_judges_the_answers_of_others(tmp_path: Path) -> None:
    with serving(tmp_path, require_keys=True) as server:
        alice, bob = new_key(server.ledger, "alice"), new_key(server.ledger, "bob")
        asked = ask(server.url, alice)
        assert say(server.url, bob, request_id=asked, score=0) == 404
        assert say(server.url, None, request_id=asked, score=0) == 401
        assert say(server.url, alice, request_id="0" * 30, score=0) == 404
        assert say(server.url, alice, request_id=asked, score=0) == 200
        with open_reader(server.ledger) as reader:
            assert [row.request_id for row in reader.feedback()] == [asked]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"score": 1},
        {"request_id": "what", "score": 1},
        {"request_id": "0" * 30},
        {"request_id": "0" * 30, "score": 1, "is_right": True},
        {"request_id": "0" * 30, "score": 1.5},
        {"request_id": "0" * 30, "score": True},
        {"request_id": "0" * 30, "is_right": 1},
        {"request_id": "0" * 30, "preferred": "x" * 201},
        {"request_id": "0" * 30, "preferred": ""},
        {"request_id": "0" * 30, "scor": 1},
    ],
)
def test_what_is_no_feedback_is_refused(body: Any) -> None:
    with pytest.raises(UpstreamError) as caught:
        read_feedback(body)
    assert caught.value.status == 400


def test_a_refusal_has_the_form_of_an_error(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        answer = post(server.url, "/v1/feedback", {"request_id": "what", "score": 1})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "request_id"
        assert httpx.get(server.url + "/v1/feedback").status_code == 405


def test_prompts_are_stored_where_that_is_switched_on(tmp_path: Path) -> None:
    with serving(tmp_path, stored_prompts=True, stored_prompts_max_chars=100) as server:
        whole = ask(server.url)
        streamed = post(server.url, "/v1/chat/completions", {**CHAT, "stream": True})
        long = {**CHAT, "messages": [{"role": "user", "content": "say a " + "b " * 60}]}
        assert post(server.url, "/v1/chat/completions", long).status_code == 200
        failed = {**CHAT, "messages": [{"role": "user", "content": "refuse 400"}]}
        assert post(server.url, "/v1/chat/completions", failed).status_code == 400
        assert say(server.url, request_id=whole, score=1) == 200
    with open_reader(server.ledger) as reader:
        found = {row.request_id: row for row in reader.traffic()}
        assert found.keys() == {whole, streamed.headers["x-farthing-request-id"]}
        assert (found[whole].prompt, found[whole].served_model) == ("say a b", "gpt-5-nano")
        assert found[whole].answer == "ab"


def test_feedback_on_a_cascade_is_about_the_answer_that_was_given(tmp_path: Path) -> None:
    echo = UpstreamEntry("echo", "echo", {"provider": "openai", "priced_as": "gpt-5-nano"})
    members = (RouteEntry("local", "llama"), RouteEntry("echo", "gpt-5-nano"))
    auto = ModelEntry("auto", members, router=RouterConfig(mode="cascade", min_confidence=1.0))
    with serving(tmp_path, small_local("llama"), echo, models=(auto,), stored_prompts=True) as server:
        asked = ask(server.url, model="auto", max_tokens=8)
        assert say(server.url, request_id=asked, is_right=True) == 200
        assert {row.status for row in server.rows()} == {"discarded", "ok"}
    with open_reader(server.ledger) as reader:
        [line] = ledger_lines(reader)
        [attempt] = reader.request_attempts([asked]).values()
    assert line.prompt == "say a b"
    assert line.labels.keys() == {"gpt-5-nano"}
    assert line.labels["gpt-5-nano"].score == 1.0
    assert attempt.status == "ok"
    assert line.labels["gpt-5-nano"].cost_pico == attempt.cost_pico

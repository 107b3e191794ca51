"""What the configuration puts together: several upstreams, models with fallbacks, the response cache."""

import httpx2
import pytest

from farthing.errors import InvalidRequest
from farthing.ledger import LedgerConfig
from farthing.ledger.budget import parse_amount
from farthing.ledger.directory import add_budget
from farthing.ledger.opening import open_database, transaction
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from tests.server.serving import PLAY, serving

TWO = (UpstreamEntry("one", "tests.server.play"), UpstreamEntry("two", "tests.server.play", {"models": ["play", "b"]}))


def post(server, model, text, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return httpx2.post(server.url + "/v1/chat/completions", json=body)


def names(server):
    return [entry["id"] for entry in httpx2.get(server.url + "/v1/models").json()["data"]]


def test_upstreams_serve_what_they_have_under_their_own_names(tmp_path):
    with serving(tmp_path, *TWO) as server:
        assert names(server) == ["play", "one/play", "b", "two/play", "two/b"]
        served = [post(server, model, "say a").headers["x-farthing-upstream"] for model in names(server)]
        assert served == ["one", "one", "two", "two", "two"]


def test_a_model_falls_back_before_its_first_token(tmp_path):
    dead = UpstreamEntry("dead", "openai", {"base_url": "http://127.0.0.1:9", "retries": 0, "models": ["x"]})
    routes = (RouteEntry("dead", "x"), RouteEntry("play", "play"))
    models = (ModelEntry("both", routes), ModelEntry("hidden", routes[1:], public=False))
    with serving(tmp_path, dead, PLAY, models=models) as server:
        assert names(server) == ["both"]
        answer = post(server, "both", "say a b")
        assert answer.json()["choices"][0]["message"]["content"] == "ab"
        assert (answer.json()["model"], answer.headers["x-farthing-upstream"]) == ("both", "play")
        assert post(server, "hidden", "say a").status_code == 404
        rows = server.rows()
        assert [(row.upstream, row.attempt, row.status) for row in rows] == [("dead", 0, "error"), ("play", 1, "ok")]
        assert rows[0].request_id == rows[1].request_id
        assert rows[1].route.startswith("fallback")


def test_repeats_come_from_the_cache_where_it_is_on(tmp_path):
    with serving(tmp_path, response_cache={"enabled": True}) as server:
        first = post(server, "play", "say a", temperature=0)
        again = post(server, "play", "say a", temperature=0)
        assert again.headers["x-farthing-cache"] == "hit"
        assert (first.headers["x-farthing-cache"], again.headers["x-farthing-cost-usd"]) == ("miss", "0")
        assert again.json()["choices"] == first.json()["choices"]
        assert [row.cache for row in server.rows()] == [None, "hit"]
        assert len(server.play.calls) == 1
        for _ in "ab":  # a stream's headers go before it is known
            streamed = post(server, "play", "say b", temperature=0, stream=True)
            assert "x-farthing-cache" not in streamed.headers
    with serving(tmp_path) as server:
        assert [post(server, "play", "say a", temperature=0).headers.get("x-farthing-cache") for _ in "ab"] == [
            None
        ] * 2


@pytest.mark.parametrize(
    ("options", "provider", "status"),
    [({}, "local", "local"), ({"provider": "openai", "priced_as": "gpt-5-nano"}, "openai", "priced")],
)
def test_an_echo_is_reserved_as_it_is_billed(tmp_path, options, provider, status):
    """A budget in dollars holds from the first token on, though nothing is known of a model called "echo"."""
    database = open_database(LedgerConfig(url=f"sqlite:///{tmp_path / 'ledger.db'}"))
    with transaction(database):
        add_budget(database, "budget", "global", "", *parse_amount("1usd/total"))
    database.close()
    with serving(tmp_path, UpstreamEntry("echo", "echo", options)) as server:
        assert post(server, "echo", "say a").status_code == 200
        [row] = server.rows()
        assert (row.provider, row.price_status) == (provider, status)
        assert row.cost_pico is not None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (UpstreamEntry("x", "nothing"), "kind 'nothing' cannot be imported"),
        (UpstreamEntry("x", "json.decoder"), "has nothing with from_config"),
        (UpstreamEntry("x", "local", {"modles": ["a"]}), "did you mean models"),
        (UpstreamEntry("x", "openai", {"api_key": "sk-secret"}), "environment"),
    ],
)
def test_upstreams_that_cannot_be(tmp_path, entry, said):
    with pytest.raises(InvalidRequest, match=said) as caught, serving(tmp_path, entry):
        pass
    assert "'x'" in str(caught.value)
    assert "sk-secret" not in str(caught.value)

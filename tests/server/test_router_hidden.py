"""Hidden states from labelled rows to a served cascade: what the server's engine tells is what the file was made of."""

import json

import httpx2
import pytest

from farthing.cli import main
from farthing.errors import InvalidRequest
from farthing.report.route_hidden import hidden_states
from farthing.router.config import RouterConfig
from farthing.router.router import RoutedMember, Router
from farthing.router.trained import Trained
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from farthing.upstreams.local import LocalUpstream
from tests.cli.test_route import COSTS, write_rows
from tests.server.serving import GOLDEN, serving, small_local

ECHO = UpstreamEntry("echo", "echo", {"provider": "openai", "priced_as": "gpt-5-nano"})
UP = (RouteEntry("local", "llama"), RouteEntry("echo", "gpt-5-nano"))
PROMPTS = ("ab", "Say what the rose has to do with 3 and 4?", "ab cd")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The router and its rows."""
    folder = tmp_path_factory.mktemp("hidden")
    data, router = write_rows(folder / "data.jsonl", 300), folder / "router"
    model = ("--hidden-states-of", str(GOLDEN / "llama"))
    assert main(["route", "train", str(data), "-o", str(router), *COSTS, *model]) == 0
    promise = ("--target-share-of-large", "0.8", "--mode", "cascade")
    assert main(["route", "calibrate", str(router), str(data), *promise, *model]) == 0
    return router, data


def p_right(trained, prompt, answer, states=None):
    return f"p_right {trained.p_right([prompt], [answer], states)[0]:.2f}"


def test_the_served_cascade_judges_by_the_same_states(files, tmp_path):
    router, _ = files
    trained = Trained.load(router)
    models = (ModelEntry("auto", UP, router=RouterConfig(file=router, mode="cascade", price=1e9)),)
    with serving(tmp_path, small_local("llama"), ECHO, models=models) as server:
        for prompt in PROMPTS:
            messages = [{"role": "user", "content": prompt}]
            body = {"model": "auto", "messages": messages, "max_tokens": 6, "seed": 7}
            answer = httpx2.post(server.url + "/v1/chat/completions", json=body)
            text = answer.json()["choices"][0]["message"]["content"]
            states = hidden_states(str(GOLDEN / "llama"))([prompt]).states
            assert answer.headers["x-farthing-route"] == f"cascade kept: {p_right(trained, prompt, text, states)}"


def test_a_server_says_whose_states_it_would_need(files):
    members = [RoutedMember(LocalUpstream("local"), "qwen2", lambda _: None, is_local=True)] * 2
    with pytest.raises(InvalidRequest, match="looks at the hidden states of 'llama'"):
        Router("auto", members, RouterConfig(file=files[0], mode="cascade", price=1e9))


def test_the_commands_need_the_same_model(files, capsys):
    router, data = files
    capsys.readouterr()
    model = ("--hidden-states-of", str(GOLDEN / "llama"))
    assert main(["route", "eval", str(router), str(data), "--json", *model]) == 0
    assert "cascade" in json.loads(capsys.readouterr().out)["modes"]
    assert main(["route", "eval", str(router), str(data), "--hidden-states-of", str(GOLDEN / "qwen2")]) == 1
    assert "looks at llama's hidden states" in capsys.readouterr().err
    assert main(["route", "train", str(data), "-o", "x", *COSTS, "--hidden-states-of", "no-such-model"]) == 1
    assert "no-such-model" in capsys.readouterr().err


def test_a_prompt_that_does_not_fit_stays_unknown():
    found = hidden_states(str(GOLDEN / "llama"))(["ab", "ab " * 100_000, "cd"])
    assert [bool(row.any()) for row in found.states == found.states] == [True, False, True]
    assert found.model == "llama"

"""Three rounds of the loop on CLINC150 through a whole server: the reference answers stand in for a large model, and a
llama of one layer learns from nothing. Then a poisoned round, and a rollback under load."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from farthing.cli import main
from farthing.router.config import RouterConfig
from farthing.server.config import ModelEntry, RouteEntry, UpstreamEntry
from tests.distill import tiny
from tests.server.serving import Running, serving

DATA = Path(os.environ.get("FARTHING_DATA", "")) / "tasks" / "clinc150" / "data_full.json"
DOMAINS, ROUNDS = ("banking", "credit_cards"), (850, 850, 1200)
pytestmark = pytest.mark.skipif(not DATA.is_file(), reason="FARTHING_DATA has no tasks/clinc150")

TOML = """
[server]
stored_prompts = true
[ledger]
url = "{ledger}"
[[upstream]]
name = "small"
kind = "classifier"
models = ["{slot}"]
threads = 1
[[upstream]]
name = "large"
kind = "tests.distill.oracle"
answers = "{answers}"
[[model]]
name = "assistant"
upstreams = [{{ upstream = "small", model = "intents" }}, {{ upstream = "large", model = "gpt-5-nano" }}]
[model.router]
mode = "cascade"
file = "{slot}"
[learn]
model = "assistant"
slot = "{slot}"
start = "{start}"
bound = 0.12
min_rows = 60
minutes = 2
[learn.recipe]
learning_rate = 0.004
head_learning_rate = 0.004
weight_decay = 0.05
batch_size = 64
epochs = 8
frozen_embeddings = false
is_bf16 = false
num_threads = 1
"""


def clinc() -> list[tuple[str, str]]:
    """Texts of two domains that are easily taken for each other, in a fixed order, each once."""
    found = json.loads(DATA.read_text())
    domains = json.loads((DATA.parent / "domains.json").read_text())
    names = {name for domain in DOMAINS for name in domains[domain]}
    rows = {text: intent for part in ("train", "val", "test") for text, intent in found[part] if intent in names}
    texts = sorted(rows)
    order = np.random.default_rng(0).permutation(len(texts))
    return [(texts[i], rows[texts[i]]) for i in order]


def tiny_llama(folder: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights: one layer of 64, a vocabulary of the texts' own."""
    for name, value in (("HIDDEN", 64), ("HEAD_DIM", 16), ("MLP", 128)):
        monkeypatch.setattr(tiny, name, value)
    written = tiny.tokenizer_json
    monkeypatch.setattr(tiny, "tokenizer_json", lambda given: written(given, 1500))
    return tiny.write_tiny(folder, num_layers=1, texts=texts)


@dataclass
class Loop:
    folder: Path
    rows: list[tuple[str, str]]
    running: Running
    num_asked: int = 0

    @property
    def version(self) -> str:
        return (self.folder / "intents" / "current").read_text().strip().removeprefix("versions/")

    def lie(self, turn: int) -> None:
        """What the large model says from now on: the label so many places on, 0 being the truth."""
        names = sorted({intent for _, intent in self.rows})
        answers = {text: names[(names.index(intent) + turn) % len(names)] for text, intent in self.rows}
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def asked(self, num: int) -> tuple[float, float, float]:
        """(pico-dollars of a request, share answered rightly, share that went up) of the next `num` texts."""
        rows = self.rows[self.num_asked : self.num_asked + num]
        self.num_asked += num
        num_right, num_before = 0, len(self.running.rows())
        with httpx2.Client(timeout=60) as client:
            for text, intent in rows:
                answer = ask(client, self.running, text)
                assert answer.status_code == 200, answer.text
                num_right += answer.json()["choices"][0]["message"]["content"] == intent
        written = self.running.rows()[num_before:]
        num_up = sum(row.upstream == "large" for row in written)
        return sum(row.cost_pico or 0 for row in written) / num, num_right / num, num_up / num

    def learn(self, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
        time.sleep(2.1)  # what is younger is left for the next run
        code = main(["learn", "--config", str(self.folder / "farthing.toml"), "--json", *options])
        out, err = capsys.readouterr()
        assert code == 0, err
        found: dict[str, Any] = json.loads(out)
        return found


def ask(client: httpx2.Client, running: Running, text: str) -> httpx2.Response:
    body = {"model": "assistant", "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    return client.post(running.url + "/v1/chat/completions", json=body)


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    pytest.importorskip("torch")
    rows, slot = clinc(), tmp_path / "intents"
    (slot / "versions").mkdir(parents=True)
    start = tiny_llama(tmp_path / "start", [text for text, _ in rows[: ROUNDS[0]]], monkeypatch)
    where = {"ledger": f"sqlite:///{tmp_path}/ledger.db", "slot": slot, "start": start}
    (tmp_path / "farthing.toml").write_text(TOML.format(answers=tmp_path / "answers.json", **where))
    small = UpstreamEntry("small", "classifier", {"models": [str(slot)], "threads": 1, "look_every_s": 0.05})
    large = UpstreamEntry("large", "tests.distill.oracle", {"answers": str(tmp_path / "answers.json")})
    routes = (RouteEntry("small", "intents"), RouteEntry("large", "gpt-5-nano"))
    models = (ModelEntry("assistant", routes, router=RouterConfig(mode="cascade", file=slot, sticky=False)),)
    with serving(tmp_path, small, large, models=models, stored_prompts=True) as running:
        made = Loop(tmp_path, rows, running)
        made.lie(0)
        yield made


def test_three_rounds_get_cheaper_and_a_poisoned_one_is_not_promoted(
    loop: Loop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farthing.router.reloading.EVERY_S", 0.05)
    costs, rights, events = [], [], []
    for num in ROUNDS:
        cost, right, _ = loop.asked(num)
        costs.append(cost)
        rights.append(right)
        with under_load(loop):
            events.append(loop.learn(capsys)["event"])
    assert costs == sorted(costs, reverse=True), "cheaper in each round"
    assert costs[2] < costs[0] / 2
    assert rights[0] == 1
    assert min(rights) > 1 - 0.12, "at a quality within the bound"
    promoted = [event for event in events if event["kind"] == "promoted"]
    assert len(promoted) >= 2
    for event in promoted:
        assert event["after"]["cost_pico"] < event["before"]["cost_pico"]
        assert event["low"] >= -0.12
    version = loop.version
    loop.lie(7)
    loop.asked(300)
    event = loop.learn(capsys)["event"]
    assert event["kind"] == "refused", event
    assert loop.version == version
    loop.lie(0)
    check_rollback(loop, capsys, promoted[-1]["replaced"])
    check_bill(loop, capsys)


@contextmanager
def under_load(loop: Loop) -> Iterator[None]:
    """Nobody who asks while something happens, or in the second after, notices."""
    statuses: list[int] = []
    stop = threading.Event()

    def asking() -> None:
        with httpx2.Client(timeout=60) as client:
            while not stop.wait(0.02):
                statuses.append(ask(client, loop.running, loop.rows[len(statuses) % 500][0]).status_code)

    threads = [threading.Thread(target=asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
        stop.wait(1.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 10
    assert set(statuses) == {200}


def check_rollback(loop: Loop, capsys: pytest.CaptureFixture[str], before: str) -> None:
    with under_load(loop):
        found = loop.learn(capsys, "--rollback")
    assert (found["kind"], found["version"]) == ("rolled back", before)
    assert loop.version == before
    upstream: Any = loop.running.service.catalog.find("assistant", None).leaf
    assert [model.version for model in upstream.serving().values()] == [before]


def check_bill(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    """The bill marks each version with what a request cost while it served."""
    assert main(["bill", "--config", str(loop.folder / "farthing.toml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["learned"]
    costs = [part["cost_per_request_pico"] for part in found["parts"]]
    assert [part["began"] for part in found["parts"]][:2] == [None, "promoted"]
    assert found["parts"][-1]["began"] == "rolled back"
    assert costs[0] > costs[1]

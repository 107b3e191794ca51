"""`farthing learn`, killed while it trains: nothing serves that did not serve before, and the next run ends it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.models import load_model
from tests.distill.learn_world import INTENTS, World, texts_of
from tests.distill.tiny import write_tiny

TOML = """
[ledger]
url = "{ledger}"
[[upstream]]
name = "small"
kind = "classifier"
models = ["{slot}"]
threads = 1
[[upstream]]
name = "large"
kind = "echo"
[[model]]
name = "intents"
upstreams = [{{ upstream = "small", model = "slot" }}, {{ upstream = "large", model = "large" }}]
[model.router]
mode = "cascade"
file = "{slot}"
[learn]
model = "intents"
slot = "{slot}"
start = "start"
bound = 0.5
min_rows = 100
minutes = 1
[learn.recipe]
learning_rate = 0.004
head_learning_rate = 0.004
num_steps = 120
epochs = 1000
checkpoint_every_s = 0.2
frozen_embeddings = false
is_bf16 = false
num_threads = 1
"""


def test_a_killed_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    world = World(tmp_path)
    world.serve(500, seed=1)  # in 1970: old enough
    write_tiny(tmp_path / "start", num_layers=1, texts=[text for text, _ in texts_of(300, seed=1)])
    path = tmp_path / "farthing.toml"
    path.write_text(TOML.format(ledger=world.url, slot=tmp_path / "slot"))
    run = [sys.executable, "-m", "farthing", "learn", "--config", str(path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(run, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment) as first:
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("step "):
                break
        first.send_signal(signal.SIGKILL)
        assert first.wait(30) == -signal.SIGKILL
    assert world.slot.current is None
    assert (tmp_path / "slot" / "runs" / "0001" / "batch.json").is_file()
    assert not (tmp_path / "slot" / "runs" / "0001" / "candidate").exists()
    assert main(["learn", "--config", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "run 1 goes on where it was" in err
    event: dict[str, Any] = json.loads(out)["event"]
    assert event["run"] == 1
    assert event["num_taught"] > 250
    assert [one.run for one in world.slot.history()] == [1]
    assert event["kind"] == "promoted", event["reasons"]
    assert set(load_model(tmp_path / "slot").labels or ()) == set(INTENTS)

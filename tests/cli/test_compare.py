"""farthing compare from the outside: local, hosted and echoed models, going on from what is there, errors in a line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farthing.cli import main
from farthing.ledger import open_reader
from tests.upstreams.tool_model import write_model

CONFIG = """
[[upstream]]
name = "parrot"
kind = "echo"
[[upstream]]
name = "paid"
kind = "echo"
provider = "openai"
priced_as = "gpt-5-nano"
models = ["cockatoo"]
[[upstream]]
name = "odd"
kind = "echo"
provider = "openai"
priced_as = "no-such-model-anywhere"
[[upstream]]
name = "away"
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
retries = 0
[[upstream]]
name = "slow"
kind = "echo"
delay_s = 0.2
[[model]]
name = "both"
upstreams = [{ upstream = "paid", model = "cockatoo" }, { upstream = "parrot", model = "echo" }]
"""
ROWS = [
    {"id": "1", "prompt": "yes", "answer": "yes"},
    {"id": "2", "prompt": "say no more", "answer": "no", "match": "contains"},
    {"id": "3", "prompt": "left", "answer": "right", "choices": ["left", "right"]},
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    Path("farthing.toml").write_text(CONFIG)
    Path("task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run(capsys, *arguments: str, config: bool = True):
    code = main(["compare", "task.jsonl", *(["--config", "farthing.toml"] if config else []), *arguments])
    told = capsys.readouterr()
    return code, told.out, told.err


def document(capsys, *arguments: str, **more: bool):
    code, out, err = run(capsys, "--json", *arguments, **more)
    assert code == 0, err
    return json.loads(out)


def test_models_of_a_configuration_by_every_name(capsys):
    found = document(capsys, "--models", "parrot/echo,both,cockatoo,odd/echo", "--concurrency", "4")
    by_name = {model["name"]: model for model in found["models"]}
    assert {model["right"] for model in found["models"]} == {2}
    assert by_name["both"]["usd_per_1000"] == by_name["cockatoo"]["usd_per_1000"]
    assert float(by_name["both"]["usd_per_1000"]) > 0
    assert by_name["odd/echo"]["usd_per_1000"] is None
    assert by_name["both"]["latency_p50_s"] > 0
    assert found["verdict"]["cheapest_not_worse"] == "parrot/echo"
    assert found["verdict"]["rows"] == 3


def test_a_model_that_cannot_be_reached_is_given_up_and_the_others_go_on(capsys):
    found = document(capsys, "--models", "away/x,cockatoo")
    away = next(model for model in found["models"] if model["name"] == "away/x")
    assert "upstream_unreachable" in away["stopped"]
    assert found["verdict"]["best"] == "cockatoo"


def test_answers_are_kept_and_not_asked_again(capsys):
    arguments = ("--models", "cockatoo", "--out", "answers.jsonl")
    first = document(capsys, *arguments)
    lines = Path("answers.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    assert (row["id"], row["model"], row["prompt"], row["is_right"]) == ("1", "cockatoo", "yes", True)
    assert row["cost_pico"] > 0
    assert row["latency_us"] > 0
    # What is right may change without anything being asked; what is asked may not.
    changed = [ROWS[0] | {"answer": "no"}, ROWS[1] | {"prompt": "say nothing"}, ROWS[2]]
    Path("task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    second = document(capsys, *arguments)
    assert Path("answers.jsonl").read_text().splitlines()[:3] == lines
    assert len(Path("answers.jsonl").read_text().splitlines()) == 4
    assert (first["models"][0]["right"], second["models"][0]["right"]) == (2, 0)


def test_local_models_quantized_or_not_are_held_to_the_choices(capsys, place):
    write_model(place / "small")
    Path("task.jsonl").write_text(
        json.dumps({"prompt": "Which?", "answer": "left", "choices": ["left", "right"], "max_tokens": 30}) + "\n"
    )
    found = document(capsys, "--models", "./small,./small@q8_0", "--threads", "1", "--out", "a.jsonl", config=False)
    assert [model["errors"] for model in found["models"]] == [0, 0]
    assert all(float(model["usd_per_1000"]) > 0 for model in found["models"])
    rows = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {"./small", "./small@q8_0"}
    for row in rows:
        assert json.loads(row["answer"]) in ("left", "right")
        assert row["logprob_least"] <= row["logprob_mean"] < 0


def test_each_attempt_is_in_the_ledger_at_the_same_cost(capsys, place):
    url = f"sqlite:///{place}/books.db"
    document(capsys, "--models", "cockatoo", "--ledger", url, "--out", "answers.jsonl")
    with open_reader(url) as reader:
        rows = list(reader.rows(0, 2**62))
    kept = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert sorted(row.cost_pico for row in rows) == sorted(row["cost_pico"] for row in kept)
    assert {(row.asked_model, row.route) for row in rows} == {("cockatoo", "compare")}


def test_the_page_and_the_table(capsys):
    code, out, err = run(capsys, "--models", "cockatoo,parrot/echo", "--html", "page.html")
    assert code == 0, err
    assert "66.7%" in out
    assert "McNemar" in out
    assert "<svg" in Path("page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", " , "], "--models names none"),
        (["--models", "nonsense"], "--models nonsense: "),
        (["--models", "smollm2-135m-instruct@q9"], "'q9' is no format of weights; allowed after @: f32"),
        (["--models", "echo", "--alpha", "0.7"], "--alpha is 0.7"),
        (["--models", "parrot/echo", "--temperature", "3"], "--temperature is 3"),
        (["--models", "parrot/echo", "--out", "nowhere/answers.jsonl"], "--out nowhere/answers.jsonl: cannot be"),
    ],
)
def test_what_is_refused_in_one_line(capsys, arguments, said):
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert said in err
    assert err.count("\n") == 1


def test_a_bad_row_is_named_before_anything_is_asked(capsys):
    Path("task.jsonl").write_text('{"prompt": "q", "answer": "a"}\n{"prompt": "q"}\n')
    code, _, err = run(capsys, "--models", "parrot/echo")
    assert (code, "line 2: answer is missing" in err) == (1, True)


def test_ctrl_c_shows_what_there_is():
    Path("task.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{i}", "answer": f"q{i}"}) + "\n" for i in range(500))
    )
    command = [sys.executable, "-m", "farthing", "compare", "task.jsonl", "--config", "farthing.toml"]
    command += ["--models", "slow/echo", "--json", "--out", "answers.jsonl"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy())
    answers = Path("answers.jsonl")
    until = time.monotonic() + 30
    while time.monotonic() < until and not (answers.exists() and answers.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["partial"] is True
    assert 1 <= found["models"][0]["rows"] < 500
    assert found["models"][0]["rows"] == len(answers.read_text().splitlines())

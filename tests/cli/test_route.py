"""farthing route from the outside: files in, files out, one line where something is wrong."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.ledger.config import LedgerConfig
from farthing.ledger.feedback import Feedback, insert_feedback
from farthing.ledger.opening import open_database, transaction
from farthing.ledger.records import COLUMNS, row_values
from farthing.ledger.traffic import Traffic, insert_traffic
from farthing.router.trained import Trained
from tests.report.ledger_rows import row
from tests.router.rows import labelled


def write_rows(path: Path, num_rows: int, seed: int = 0, **given: Any) -> Path:
    rows = labelled(num_rows, seed, **given)
    with path.open("w", encoding="utf-8") as out:
        for i, prompt in enumerate(rows.prompts):
            models = {name: {"is_right": bool(rows.quality[i, j])} for j, name in enumerate(rows.models)}
            models["model-0"] |= {"answer": (rows.answers or ())[i]}
            out.write(json.dumps({"prompt": prompt, "models": models}) + "\n")
    return path


COSTS = ("--cost", "model-0=0.24/Mtok", "--cost", "model-1=24/Mtok")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a router, calibrated in both modes, and the rows it was made from."""
    folder = tmp_path_factory.mktemp("route")
    data, router = write_rows(folder / "data.jsonl", 900), folder / "router"
    assert main(["route", "train", str(data), "-o", str(router), *COSTS]) == 0
    for mode in ("route", "cascade"):
        arguments = ["--target-share-of-large", "0.85", "--mode", mode]
        assert main(["route", "calibrate", str(router), str(data), *arguments]) == 0
    return folder


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["route", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["route", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_curve_stands_beside_what_needs_no_router(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "eval", str(folder / "router"), str(folder / "data.jsonl"))
    small, large = found["singles"]
    assert (small["name"], large["name"], found["best_single"]["name"]) == ("model-0", "model-1", "model-1")
    assert found["oracle"]["quality"] > large["quality"]
    for mode in ("route", "cascade"):
        one = found["modes"][mode]
        assert one["promised"]["is_proven"]
        assert one["chosen"]["quality"] > one["chosen"]["random"]
        assert one["chosen"]["cost"] < large["cost"]
    assert found["unit"] == "USD per million tokens"
    assert main(["route", "eval", str(folder / "router"), str(folder / "data.jsonl")]) == 0
    out = capsys.readouterr().out
    for said in ("always model-0", "always model-1 (best single)", "oracle", "lot at that cost", "promise", "APGR"):
        assert said in out


def test_the_page_is_whole_and_has_nothing_from_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "page.html"
    assert main(["route", "eval", str(folder / "router"), str(folder / "data.jsonl"), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: Any) -> None:
            tags.append(tag)
            assert not {"src", "href", "style", "onclick"} & {name for name, _ in attributes}

    Reader().feed(text)
    assert tags.count("polyline") == 3  # by lot, routed, cascade
    assert "script" not in tags
    assert f"page: {page}" in capsys.readouterr().err


def test_an_explanation_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Say what the judge and the plea and the tort and the appeal have to do with 12 and 5?"
    router = ("--router", str(folder / "router"))
    assert main(["route", "explain", prompt, *router, "--answer", "12 + 5 = <<12+5=19>>19.\n#### 19"]) == 0
    out = capsys.readouterr().out
    for said in ("before the call: model-1", "words that weigh most", "length", "topic", "after model-0's answer"):
        assert said in out
    assert "route promises at least 85.0% of the dearest model's quality; wrong with a chance of at most 0.1" in out
    found = document(capsys, "explain", prompt, *router)
    assert found["model"] == "model-1"
    assert found["answer"] is None


def test_drift_of_new_prompts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    router = str(folder / "router")
    same = write_rows(folder / "same.jsonl", 300, seed=5)
    assert document(capsys, "drift", router, str(same))["alarms"] == []
    other = write_rows(folder / "other.jsonl", 300, seed=5, topics=("garden",))
    assert "expected gap" in document(capsys, "drift", router, str(other))["alarms"]


def test_costs_a_request_and_a_goal_of_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, router = str(write_rows(tmp_path / "data", 500)), str(tmp_path / "router")
    costs = ("--cost", "model-0=0.0001", "--cost", "model-1=0.01")
    assert document(capsys, "train", data, "-o", router, *costs)["unit"] == "USD per request"
    found = document(capsys, "calibrate", router, data, "--target-cost", "0.006", "--delta", "0.2")
    assert found["proven"]["route"]["goal"] == "cost"
    assert found["proven"]["route"]["is_proven"]
    assert found["proven"]["route"]["cost"] <= 0.006


def ledger_of(folder: Path, num_rows: int) -> str:
    """Calls of the small model, right or wrong as people said, their prompts stored."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    rows = labelled(num_rows, seed=21, topics=("kitchen",))
    database = open_database(LedgerConfig(url=url))
    marks = ", ".join("?" * len(COLUMNS))
    with transaction(database):
        for i, prompt in enumerate(rows.prompts):
            one = row(i, id=f"a{i:05}", request_id=f"r{i:05}", key_id=None, served_model="model-0")
            database.execute(f"INSERT INTO attempts ({', '.join(COLUMNS)}) VALUES ({marks})", row_values(one))
            insert_feedback(database, one.request_id, None, Feedback(score=1.0))
            insert_traffic(database, Traffic(one.request_id, prompt, "model-0", "so\n#### 4"), i, 1000, 1)
    database.close()
    return url


def test_feedback_in_the_ledger_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, data = ledger_of(tmp_path, 200), str(write_rows(tmp_path / "data", 200))
    plain, learned = tmp_path / "plain", tmp_path / "learned"
    assert main(["route", "train", data, "-o", str(plain), "--part", "1", *COSTS]) == 0
    capsys.readouterr()
    train = ["route", "train", data, "-o", str(learned), "--part", "1", *COSTS, "--from-ledger", "--ledger", url]
    assert main(train) == 0
    assert "prompts with some of the labels, beside" in capsys.readouterr().err
    assert len(Trained.load(learned).origin.trained) > len(Trained.load(plain).origin.trained) + 100
    prompt = labelled(1, seed=22, topics=("kitchen",)).prompts[0]
    quality = [document(capsys, "explain", prompt, "--router", str(path))["quality"] for path in (plain, learned)]
    assert quality[1]["model-0"] > quality[0]["model-0"]
    assert document(capsys, "drift", str(learned), "--from-ledger", "--ledger", url)["rows"] == 200
    assert document(capsys, "forget", "--ledger", url) == {"prompts": 200, "deleted": False}
    assert document(capsys, "forget", "--ledger", url, "--yes") == {"prompts": 200, "deleted": True}
    assert "stored_prompts = true" in refused(capsys, *train[1:])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "data", "-o", "x"), "no row says what"),
        (("train", "-o", "x"), "give a file of labelled rows"),
        (("train", "nothing", "-o", "x"), "cannot be read"),
        (("train", "data", "-o", "x", "--ledger", "sqlite:///x"), "belong to --from-ledger"),
        (("train", "data", "-o", "x", "--cost", "model-0"), "write it like"),
        (("train", "data", "-o", "x", "--cost", "model-0=1", "--cost", "model-1=2/Mtok"), "all in one unit"),
        (("train", "data", "-o", "x", "--models", "model-0,model-7", *COSTS), "no row has a label of model-7"),
        (("train", "data", "-o", "no/x", *COSTS), "cannot be written"),
        (("calibrate", "router", "data"), "give one of --target-quality"),
        (("calibrate", "router", "data", "--target-quality", "0.9", "--target-cost", "1"), "give one of"),
        (("calibrate", "router", "data", "--target-quality", "1.5"), "target quality is 1.5"),
        (("calibrate", "router", "data", "--target-quality", "0.9", "--delta", "0"), "delta is 0"),
        (("calibrate", "router", "data", "--target-quality", "0.9", "--mode", "x"), "mode is x"),
        (("calibrate", "data", "data", "--target-quality", "0.9"), "no router file"),
        (("eval", "router", "few"), "at least 20 are needed"),
        (("explain", " ", "--router", "router"), "the prompt is empty"),
        (("drift", "router"), "give a file of prompts"),
        (("drift", "router", "few"), "drift needs 50"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: Any, said: str
) -> None:
    if not (folder / "few").exists():
        write_rows(folder / "few", 10, seed=30)
    (folder / "data").write_bytes((folder / "data.jsonl").read_bytes())
    monkeypatch.chdir(folder)
    assert said in refused(capsys, *arguments)


def test_the_waterfalls_second_panel_shows_what_routing_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, page = tmp_path / "work.jsonl", tmp_path / "page.html"
    work.write_text('{"messages": [{"role": "user", "content": "one two"}], "max_tokens": 2, "temperature": 0}\n')
    golden = Path(__file__).parents[1] / "golden" / "llama"
    waterfall = ["waterfall", str(work), "--model", str(golden), "--threads", "1", "--hosted", "gpt-5-nano"]
    router = ["--router", str(folder / "router")]
    capsys.readouterr()
    assert main([*waterfall, *router]) == 1
    assert "belong together" in capsys.readouterr().err
    router += ["--labelled", str(folder / "data.jsonl"), "--html", str(page), "--json"]
    assert main([*waterfall, *router]) == 0
    panel = json.loads(capsys.readouterr().out)["routing"]
    large, routed, cascade, small = panel["rows"]
    assert (large["name"], small["name"]) == ("always model-1", "always model-0")
    for one in (routed, cascade):
        assert small["cost"] < one["cost"] < large["cost"]
        assert one["quality"] > one["random"]
        assert "with a chance of at most 0.1" in one["promise"]
    assert "Another model pair: model-0 where it does" in page.read_text(encoding="utf-8")

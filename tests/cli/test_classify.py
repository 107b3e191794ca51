"""farthing classify: labels for a file of texts, and what is said of them."""

import json
import shutil
from pathlib import Path

import pytest

from farthing.cli import main
from tests.engine.cascades import KNOWN, write_folder
from tests.models.small import GOLDEN

MODEL = str(GOLDEN / "classifier_llama")
LABELS = ("card arrival", "lost_card", "über 30 %", "🙂", "exchange rate")
ROWS = (
    {"id": "a", "text": "a", "answer": "lost_card"},
    {"prompt": "When will my card arrive?", "answer": ["card arrival", "exchange rate"]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "a"}]},
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    return path


def test_a_document_with_every_row(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", MODEL, str(data), "--json", "--top", "5", "--batch", "2", "--threads", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_rows"] == 3
    assert document["num_judged"] == 2
    assert document["accuracy"] == document["num_right"] / 2
    low, high = document["interval"]
    assert 0 <= low <= document["accuracy"] <= high <= 1
    assert float(document["usd_per_million"]) == pytest.approx(0.0765 / 3600 * document["seconds"] / 3 * 1e6, rel=1e-6)
    first, second, third = document["rows"]
    assert first["label"] == third["label"]
    assert (first["id"], second["id"], third["id"]) == ("a", "line 2", "line 3")
    assert first["probability"] == first["top"][0]["probability"]
    assert sum(entry["probability"] for entry in first["top"]) == pytest.approx(1, abs=1e-5)
    assert first["is_right"] == (first["label"] == "lost_card")
    assert "is_right" not in third


def test_a_file_and_a_summary(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["classify", MODEL, str(data), "--out", str(out), "--limit", "2"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "line 2"]
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "USD for a million rows" in shown.out
    assert "2 labels in" in shown.err
    assert main(["classify", MODEL, str(data)]) == 0
    assert "When will my card arrive?" in capsys.readouterr().out


def test_answers_that_are_no_label_are_wrong_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a", "answer": "elsewhere"}\n')
    assert main(["classify", MODEL, str(data), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["accuracy"] == 0
    assert "elsewhere" in shown.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no row in it"),
        ("{", "line 1: not JSON"),
        ("[]", "list instead of an object"),
        ('{"text": "a", "prompt": "b"}', "give one of text"),
        ('{"text": 7}', "text has no text"),
        ('{"messages": [{"role": "system", "content": "a"}]}', "messages has no text"),
        ('{"text": "a", "answer": 7}', "answer is '7'"),
        ('{"text": "a", "id": 1.5}', "id is 1.5"),
        ('{"text": "a"}\n{"text": "a \\ud83d"}', "line 2: holds half of a surrogate pair"),
        ('{"text": "a", "answer": ["a", "\\ude00"]}', "line 1: holds half of a surrogate pair"),
        ('{"text": "a", "id": "\\ude00"}', "line 1: holds half of a surrogate pair"),
        (json.dumps({"id": "long", "text": "x" * 5000}), "row long: its text has"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "out.jsonl"
    data.write_text(text + "\n")
    assert main(["classify", MODEL, str(data), "--out", str(out)]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def changed(tmp_path: Path, name: str, file: str, **keys: object) -> Path:
    """A golden classifier with other keys in one of its files."""
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "model"))
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | keys))
    return folder


def test_a_text_without_tokens_is_named_as_the_file_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    folder = changed(tmp_path, "classifier_qwen3", "tokenizer.json", normalizer=strip, post_processor=None)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"id": f"r{i}", "text": text}) + "\n" for i, text in enumerate("abc d")))
    assert main(["classify", str(folder), str(data), "--batch", "2"]) == 1
    assert "row r3: its text has no tokens" in capsys.readouterr().err
    data.write_text('{"text": " "}\n')
    assert main(["classify", str(folder), str(data)]) == 1
    assert "row line 1: its text has no tokens" in capsys.readouterr().err


def test_labels_do_not_reach_the_terminal_as_they_are(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {str(i): f"\x1b[2J{i}" for i in range(5)}
    folder = changed(tmp_path, "classifier_llama", "config.json", id2label=labels, label2id=None)
    assert main(["classify", str(folder), str(data)]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert r"\x1b[2J" in shown.out


def test_more_threads_than_there_can_be(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", MODEL, str(data), "--threads", "257"]) == 2
    assert "--threads" in capsys.readouterr().err


def test_a_model_without_labels(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(GOLDEN / "llama"), str(data)]) == 1
    assert "has no labels" in capsys.readouterr().err


def test_compare_asks_a_classifier_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.jsonl"
    rows = [{"prompt": text, "answer": "lost_card", "choices": [*LABELS[:3], LABELS[4]]} for text in ("a", "b", "lost")]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "answers.jsonl"
    assert main(["compare", str(task), "--models", MODEL, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 3
    assert all(json.loads(line["answer"]) in LABELS and line["error"] is None for line in lines)
    assert all(line["logprob_mean"] == line["logprob_least"] <= 0 for line in lines)
    assert all(line["cost_pico"] > 0 for line in lines)
    assert "models" in document


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("cascade") / "intents"))


@pytest.fixture
def known(tmp_path: Path) -> Path:
    rows = [{"text": text, "answer": label} for text, label in zip(KNOWN, LABELS, strict=True)]
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "x" * 30}]))
    return path


def test_a_cascade_tells_who_answered(cascade: str, known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", cascade, str(known), "--json", "--batch", "4"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["point"], document["accuracy"]) == ("intents", "best", 1)
    assert list(document["stages"]) == ["linear", "student", "teacher"]
    assert document["stages"]["linear"] == 5
    assert sum(document["stages"].values()) == document["num_rows"] == 6
    assert [row["stage"] for row in document["rows"][:5]] == ["linear"] * 5
    assert main(["classify", cascade, str(known), "--point", "cheapest"]) == 0
    assert "answered by: linear 5, student 1" in capsys.readouterr().out


def test_what_a_cascade_does_not_take(cascade: str, known: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        ((cascade, str(known), "--point", "dearest"), "allowed: best, cheapest"),
        ((cascade, str(known), "--weights", "q8_0"), "leave weights out"),
        ((MODEL, str(known), "--point", "best"), "is a single model"),
    ):
        assert main(["classify", *options]) == 1
        assert said in capsys.readouterr().err


def test_compare_asks_a_cascade_by_its_path(cascade: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.jsonl"
    rows = [{"prompt": text, "answer": LABELS[i], "match": "exact"} for i, text in enumerate(KNOWN)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "answers.jsonl"
    assert main(["compare", str(task), "--models", cascade, "--out", str(out), "--json"]) == 0
    assert "models" in json.loads(capsys.readouterr().out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["answer"] for line in lines] == [*LABELS]

"""farthing distill from the outside, without training: what it reads, of whom it asks answers, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.cli._distill import read_data
from farthing.distill.data import Example
from farthing.distill.job import DistillJob
from farthing.errors import InvalidRequest
from farthing.ledger import LedgerConfig
from farthing.ledger.opening import open_database
from farthing.ledger.traffic import Traffic, insert_traffic

CONFIG = '[[upstream]]\nname = "far"\nkind = "echo"\nmodels = ["large"]\n'
LABELS = ["arrival", "rate"]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    rows = [{"prompt": f"it is {LABELS[i % 2]}, case {i}", "answer": "rate", "choices": LABELS} for i in range(40)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "farthing.toml").write_text(CONFIG)
    return tmp_path / "task.jsonl"


def distilled(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Any, list[Example]]:
    """What would be distilled, and from which rows."""
    import farthing.cli.distill as command

    seen: list[Any] = []

    def run(job: Any, rows: list[Example], *_: Any) -> dict[str, Any]:
        seen[:] = [job, rows]
        return {"quantized": "student-q8_0.gguf", "labels": None}

    monkeypatch.setattr("farthing.distill.torch_need.need_torch", lambda: None)
    monkeypatch.setattr(command, "_run", run)
    assert main(["distill", "--student", "layers=2,vocab=task", "--json", *arguments]) == 0
    return seen[0], seen[1]


def test_an_upstream_teaches_with_its_texts_alone_and_is_asked_once(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--teacher", "far/large", "--config", str(tmp_path / "farthing.toml"), "--data", str(task), "-o",
                 str(tmp_path / "student"), "--start", "base")  # fmt: skip
    job, rows = distilled(monkeypatch, *arguments)
    assert job.teacher == "base"
    assert [row.answer for row in rows] == [row.text for row in rows]  # an echo, not the rows' own answers
    assert rows[0].source == "task.jsonl:line 1:far/large"
    answers = tmp_path / "student.answers.jsonl"
    whole = answers.read_bytes()
    answers.write_bytes(whole[: len(whole) // 2])  # killed
    _, again = distilled(monkeypatch, *arguments)
    assert again == rows
    assert len(answers.read_bytes().splitlines()) == 40
    size = answers.stat().st_size
    distilled(monkeypatch, *arguments)
    assert answers.stat().st_size == size


def test_an_upstream_is_not_asked_what_teaches_nothing(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Personal data does not leave the house only to be thrown away, and test rows are not asked for nothing."""
    lines = task.read_text().splitlines()
    private = json.dumps({"prompt": "my mail is ann.lee@example.org", "answer": "rate", "choices": LABELS})
    task.write_text("\n".join([*lines, private, lines[3]]))
    (tmp_path / "test.jsonl").write_text("\n".join(lines[:5]))
    asked = []

    async def answers(_config: Path, _teacher: str, rows: list[Example], *_: Any) -> list[Example]:
        asked.extend(row.text for row in rows)
        return rows

    monkeypatch.setattr("farthing.cli._distill.collect_answers", answers)
    distilled(monkeypatch, "--teacher", "far/large", "--config", str(tmp_path / "farthing.toml"), "--data", str(task),
              "-o", str(tmp_path / "student"), "--start", "base", "--test", str(tmp_path / "test.jsonl"))  # fmt: skip
    assert asked == [json.loads(line)["prompt"] for line in lines[5:]]


def test_a_recipes_defaults_stay_unless_they_are_given(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--teacher", "base", "--data", str(task), "-o", str(tmp_path / "student"))
    job, _ = distilled(monkeypatch, *arguments)
    default = DistillJob("base", job.student, job.output)
    assert job.student_recipe == replace(default.student_recipe, num_threads=job.num_threads)
    assert (job.linear_share, job.num_prompted) == (default.linear_share, default.num_prompted)
    job, _ = distilled(monkeypatch, *arguments, "--learning-rate", "2e-4", "--prompted", "0", "--linear-share", "0")
    assert (job.student_recipe.learning_rate, job.student_recipe.head_learning_rate) == (2e-4, 2e-4)
    assert (job.linear_share, job.num_prompted) == (0, 0)


def test_stored_traffic_teaches(task: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    database = open_database(LedgerConfig(url=url))
    database.begin()
    for number in range(6):
        model = "large" if number % 2 else "small"
        insert_traffic(database, Traffic(f"r{number}", f"where {number}", model, "arrival"), number, 100, number)
    database.commit()
    database.close()
    found = read_data([task], url, "large")
    assert [row.source for row in found[40:]] == ["ledger:r1:large", "ledger:r3:large", "ledger:r5:large"]
    with pytest.raises(InvalidRequest, match="no stored prompt that huge answered"):
        read_data([], url, "huge")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to teach"),
        (("--data", "none.jsonl"), "cannot be read"),
        (("--data", "task.jsonl", "--served", "large"), "give --from-ledger"),
        (("--data", "task.jsonl", "--student", "layers=two"), "layers=6,vocab=task"),
        (("--data", "task.jsonl", "--kl", "sideways"), "forward, reverse, jsd"),
        (("--data", "task.jsonl", "--minutes", "-1"), "minutes is -1"),
        (("--data", "task.jsonl", "--teacher-minutes", "0"), "minutes is 0"),
        (("--data", "task.jsonl", "--teacher-steps", "0", "--minutes", "1"), "num_steps is 0"),
        (("--data", "task.jsonl", "--learning-rate", "0"), "learning_rate is 0"),
        (("--data", "task.jsonl", "--linear-share", "1"), "--linear-share"),
        (("--data", "task.jsonl", "--task", "text", "--variants", "9"), "--variants is for tasks of labels"),
        (("--data", "task.jsonl", "--task", "text", "--hidden-weight", "1"), "--hidden-weight is for tasks of labels"),
        (("--data", "task.jsonl", "--task", "text", "--linear-share", "0.5"), "--linear-share is for tasks of labels"),
        (("--data", "task.jsonl", "--task", "text", "--prompted", "9"), "--prompted is for tasks of labels"),
        (("--data", "task.jsonl", "--held-out", "0.9"), "held-out share"),
        (("--data", "task.jsonl", "--config", "farthing.toml", "--teacher", "nowhere"), "nowhere"),
        (("--data", "task.jsonl", "-o", "no/such/folder"), "does not exist"),
        (("--data", "task.jsonl", "-o", "."), "exists and is no student"),
    ],
)
def test_errors_are_one_line(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr("farthing.distill.torch_need.need_torch", lambda: None)
    monkeypatch.setattr("farthing.distill.run.train", lambda *_, **__: pytest.fail("nothing is to be trained"))
    monkeypatch.chdir(task.parent)
    given = ["distill", "--teacher", "base", "--student", "layers=2", "-o", str(tmp_path / "student"), *arguments]
    assert main(given) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_no_threads_are_refused(task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "distill",
        "--teacher",
        "base",
        "--student",
        "layers=2",
        "-o",
        str(tmp_path / "student"),
        "--data",
        str(task),
    ]
    assert main([*given, "--threads", "0"]) == 2
    assert "--threads" in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("farthing.distill.torch_need.find_spec", lambda _: None)
    out = str(tmp_path / "student")
    assert main(["distill", "--teacher", "base", "--data", str(task), "--student", "layers=2", "-o", out]) == 1
    assert "pip install 'farthing[distill]'" in capsys.readouterr().err

"""`farthing distill` from end to end on tiny models: what it leaves behind, and that a stopped run goes on."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from farthing.cli import main
from farthing.distill.cascade_folder import MeasuredCascade, write_cascade
from farthing.distill.data import collected, examples_of_task
from farthing.distill.job import DistillJob
from farthing.distill.linear import train_linear
from farthing.distill.measure import Chosen
from farthing.distill.student import parse_student
from farthing.engine.cascade_classifier import classifier_logs, open_cascade
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.engine.labelling import Prompt
from farthing.engine.open_labeller import open_labeller
from farthing.errors import InvalidRequest
from farthing.models import load_model
from farthing.models.cascade_file import Point, read_cascade
from farthing.report.classify import classify_rows, read_rows
from tests.distill.tiny import TEXTS, write_tiny

LABELS = ("arrival", "order", "rate", "top_up", "twice", "login")


def write_task(path: Path, num: int = 120) -> Path:
    endings = ("", " please", " now", " today", " thanks")
    rows = [
        {"prompt": f"{TEXTS[i % 6]}{endings[i // 6 % 5]} {i // 30}", "answer": LABELS[i % 6], "choices": list(LABELS)}
        for i in range(num)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_tiny(folder / "base", num_layers=4)
    write_tiny(folder / "other", num_layers=4, seed=1)
    write_task(folder / "task.jsonl")
    return folder


def distill(given: Path, out: Path, *more: str, teacher: str = "base") -> int:
    return main([
        "distill", "--teacher", str(given / teacher), "--data", str(given / "task.jsonl"), "-o", str(out),
        "--student", "layers=2,vocab=task", "--steps", "6", "--teacher-steps", "6", "--threads", "1",
        "--prompted", "0", "--variants", "40", "--held-out", "0.2", *more,
    ])  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def made(given: Path) -> Path:
    assert distill(given, given / "student") == 0
    return given / "student"


def test_what_it_leaves_is_an_ordinary_folder_and_a_report(made: Path) -> None:
    student, few = load_model(made), load_model(made.with_name("student-q8_0.gguf"))
    assert student.config.num_layers == 2
    assert student.labels == few.labels == tuple(sorted(LABELS))
    texts = [*TEXTS]
    a, b = (Classifier(model, ClassifierConfig(1)) for model in (student, few))
    np.testing.assert_allclose(a.classify(a.encode_all(texts)), b.classify(b.encode_all(texts)), atol=0.2)
    report = json.loads((made / "report.json").read_text())
    names = [row["name"] for row in report["results"]]
    assert names[:4] == ["tuned teacher", "student", "student, q8_0", "linear"]
    chain = "linear → student, q8_0 → tuned teacher"
    assert names[4:] == ["linear + student, q8_0", chain, f"{chain}, at its best"]
    for row in report["results"]:
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        assert row["seconds_per_request"] > 0
        assert float(row["usd_per_million_requests"]) > 0
    assert report["results"][1]["kl"] >= 0
    assert report["student"]["layers"][0] == 0
    assert sum(report["results"][-1]["shares"]) == pytest.approx(1)
    assert list(map(len, report["results"][-1]["weights"])) == [0, 1, 2]
    assert report["variants"] == 40
    assert {len(row["seconds_per_request_by_round"]) for row in report["results"]} == {5}


def test_the_cascade_beside_it_is_served_as_it_was_measured(made: Path, tmp_path: Path) -> None:
    folder, report = made.with_name("student-cascade"), json.loads((made / "report.json").read_text())
    file = read_cascade(folder)
    assert file.labels == tuple(sorted(LABELS))
    assert file.max_tokens == 256
    asked = max(point.num_stages for point in file.points.values())
    names = ["cascade.json", "linear.npz", "student-q8_0.gguf", *(["teacher-q8_0.gguf"] if asked > 2 else [])]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "student-q8_0.gguf").read_bytes() == made.with_name("student-q8_0.gguf").read_bytes()
    task = made.with_name("task.jsonl").read_text().splitlines()
    data = collected(examples_of_task(made.with_name("task.jsonl")), share=0.2)
    held_out = {row.text for row in data.held_out}
    rows = [line for line in task if json.loads(line)["prompt"] in held_out]
    (tmp_path / "held_out.jsonl").write_text("\n".join(rows))
    measured = {"cheapest": report["results"][-2], "best": report["results"][-1]}
    for name, row in measured.items():
        found, _, _ = classify_rows(
            open_labeller(folder, ClassifierConfig(1), point=name), read_rows(tmp_path / "held_out.jsonl"), batch=7
        )
        assert sum(one.is_right is True for one in found) / len(found) == row["accuracy"]
        shares = [sum(one.stage == stage for one in found) / len(found) for stage in ("linear", "student", "teacher")]
        assert shares == pytest.approx(row["shares"])


def test_the_teacher_in_the_cascade_says_what_was_measured(made: Path, tmp_path: Path) -> None:
    """Both points ask it: their thresholds keep nothing."""
    job = DistillJob("base", parse_student("layers=2,vocab=task"), tmp_path / "student")
    student, teacher = made.with_name("student-q8_0.gguf"), made.with_name("student.work") / "teacher-q8_0.gguf"
    chosen = Chosen(Point(((), (0.0,), (0.0, 0.0)), (None, None)), 1.0, 1e-3, ((), (0.0,), (0.0, 0.0)))
    linear = train_linear([*TEXTS], np.arange(6), 6)
    cascade = MeasuredCascade(linear, student, teacher, {"best": chosen, "cheapest": chosen})
    folder = write_cascade(job, tuple(sorted(LABELS)), cascade)
    assert (folder / "teacher-q8_0.gguf").read_bytes() == teacher.read_bytes()
    served, measured = open_cascade(folder, ClassifierConfig(1)), Classifier(load_model(teacher), ClassifierConfig(1))
    prompts = [Prompt(served.encode(text), text) for text in TEXTS]
    expected = classifier_logs(measured, measured.encode_all([*TEXTS]))
    np.testing.assert_allclose(served.label(prompts).logs, expected, atol=1e-6)
    assert served.label(prompts).stages.tolist() == [2] * 6


def test_no_room_is_told_and_what_was_there_stays(given: Path, made: Path, monkeypatch: Any, capsys: Any) -> None:
    folder = made.with_name("student-cascade")
    before = contents(folder)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert distill(given, made) == 1
    assert "student-cascade: cannot be written (No space left" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_foreign_folder_in_the_cascades_place_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "student-cascade").mkdir()
    with pytest.raises(InvalidRequest, match="is no cascade"):
        DistillJob("base", parse_student("layers=2,vocab=task"), tmp_path / "student")


def test_damaged_timings_are_told(given: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = given / "student.work" / "cascade-seconds.json"
    whole = path.read_bytes()
    for damaged in (b"{", whole.replace(b"linear", b"square"), whole.replace(b": {", b': 7, "x": {')):
        path.write_bytes(damaged)
        assert distill(given, made) == 1
        assert str(path) in capsys.readouterr().err
    path.write_bytes(whole)


def test_the_untrained_teacher_is_asked_with_a_prompt(given: Path, made: Path) -> None:
    assert distill(given, made, "--prompted", "4") == 0
    first = json.loads((made / "report.json").read_text())["results"][0]
    assert (first["name"], first["num_rows"], first["note"]) == ("prompted", 4, "4 rows alone")
    assert first["seconds_per_request"] > 0


def test_a_second_run_finds_all_done(given: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (made / "model.safetensors").read_bytes()
    cascade = contents(made.with_name("student-cascade"))
    assert distill(given, made, "--json") == 0
    assert (made / "model.safetensors").read_bytes() == before
    assert contents(made.with_name("student-cascade")) == cascade
    assert json.loads(capsys.readouterr().out)["labels"] == 6


def test_the_same_seed_gives_the_same_student_whatever_was_killed(given: Path, made: Path, monkeypatch: Any) -> None:
    """Killed in every stage in turn: what is left behind is gone on from."""
    import farthing.distill.run as run

    out = given / "again"
    for stage in ("_taught", "_start", "_train", "quantized_student"):
        with monkeypatch.context() as patch:
            patch.setattr(run, stage, _killed)
            assert distill(given, out) == 130
    assert distill(given, out) == 0
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (out / name).read_bytes() == (made / name).read_bytes()


def _killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_another_jobs_folder_is_refused(given: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        ({"teacher": "other"}, "its teacher differ"),
        ({"more": ("--student", "layers=3")}, "its student (layers) differ"),
        ({"more": ("--seed", "4")}, "its teacher recipe (seed), student recipe (seed) differ"),
    ):
        assert distill(given, made, *options.get("more", ()), teacher=str(options.get("teacher", "base"))) == 1
        assert told in capsys.readouterr().err


def test_a_damaged_stage_is_told(given: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student"
    shutil.copytree(made.with_name("student.work"), tmp_path / "student.work")
    targets = tmp_path / "student.work" / "teacher.targets"
    whole = bytearray(targets.read_bytes())
    whole[-3] ^= 0xFF
    targets.write_bytes(whole)
    assert distill(given, out) == 1
    assert "is damaged" in capsys.readouterr().err
    targets.unlink()
    weights = tmp_path / "student.work" / "start" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert distill(given, out) == 1
    assert "truncated or corrupt" in capsys.readouterr().err
    layers = tmp_path / "student.work" / "layers.json"
    for damaged in (b"[0, ", b"7", b'["0"]', b"\xff"):
        layers.write_bytes(damaged)
        assert distill(given, out) == 1
        assert f"{layers} is damaged" in capsys.readouterr().err
    assert not out.exists()


def test_damaged_hidden_states_are_told(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, options = tmp_path / "student", ("--hidden-weight", "0.5", "--student", "layers=2,vocab=all")
    assert distill(given, out, *options) == 0
    shutil.rmtree(out)
    states = tmp_path / "student.work" / "teacher-hidden.npy"
    whole = states.read_bytes()
    for damaged in (whole[:60], whole[:-4], b"", whole.replace(b"<f4", b"<i4")):
        states.write_bytes(damaged)
        assert distill(given, out, *options) == 1
        assert f"{states} is damaged" in capsys.readouterr().err


def test_long_texts_are_measured_as_they_were_taught(given: Path, tmp_path: Path) -> None:
    """Cut to the 256 tokens that a student is taught, and to the 512 that this model holds."""
    rows = [{"prompt": f"{TEXTS[i % 6]} {i} " + "and so on " * 400, "answer": LABELS[i % 6]} for i in range(6)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert distill(given, tmp_path / "student", "--test", str(tmp_path / "test.jsonl")) == 0
    results = {row["name"]: row for row in json.loads((tmp_path / "student" / "report.json").read_text())["results"]}
    for name in ("tuned teacher", "student"):
        row = results[name]
        assert row["tokens_per_s"] * row["seconds_per_request"] == pytest.approx(256)


def test_errors_are_told_in_a_line(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        (("--kl", "sideways"), "forward, reverse, jsd"),
        (("--student", "wide=2"), "layers=6,vocab=task"),
        (("--steps", "0"), "num_steps"),
        (("--format", "q9"), "allowed"),
        (("--task", "sum"), "labels, text"),
        (("--from-ledger", f"sqlite:///{tmp_path}/none.db"), ""),
        (("--student", "layers=9"), "the teacher has 4"),
    ):
        assert distill(given, tmp_path / "x", *options) == 1, options
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert told in error, options

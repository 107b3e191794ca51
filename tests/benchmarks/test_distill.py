"""The benchmark of distillation: rows that teach are not those that choose or are measured on, and its last line."""

import argparse
import csv
import json
from pathlib import Path

import pytest

from benchmarks.distill import _summary, job_of, layers_of
from benchmarks.distill_tasks import load_task
from farthing.errors import InvalidRequest
from farthing.models import load_model
from tests.distill.tiny import write_tiny


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    (tmp_path / "banking77").mkdir()
    (tmp_path / "clinc150").mkdir()
    for part, num in (("train", 200), ("test", 20)):
        with (tmp_path / "banking77" / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "category"))
            writer.writerows((f"{part} question {i}", f"label {i % 3}") for i in range(num))
    rows = {part: [[f"{part} text {i}", f"intent {i % 4}"] for i in range(90)] for part in ("train", "test")}
    rows |= {f"oos_{part}": [[f"{part} odd {i}", "oos"] for i in range(9)] for part in ("train", "test")}
    (tmp_path / "clinc150" / "data_full.json").write_text(json.dumps(rows))
    return tmp_path


def test_rows_have_one_side(tasks: Path) -> None:
    data = load_task(tasks, "banking77")
    assert len(data.train) + len(data.validation) == 200
    assert 4 <= len(data.validation) <= 40
    assert len(data.held_out) == 20
    assert data.labels == ("label 0", "label 1", "label 2")
    assert {row.source.split(":")[1] for row in data.train} == {"train"}
    clinc = load_task(tasks, "clinc150")
    assert clinc.labels == ("intent 0", "intent 1", "intent 2", "intent 3", "oos")
    assert len(clinc.held_out) == 90
    whole = load_task(tasks, "clinc150-oos")
    assert (whole.train, len(whole.held_out)) == (clinc.train, 99)


def test_what_the_test_rows_ask_teaches_and_chooses_nothing(tasks: Path) -> None:
    with (tasks / "banking77" / "train.csv").open("a", newline="") as file:
        csv.writer(file).writerows((f"TEST  question {i}?", "label 1") for i in range(20))
    data = load_task(tasks, "banking77")
    assert len(data.train) + len(data.validation) == 200
    assert data.dropped == {"asked in the test rows too": 20}
    assert len(data.held_out) == 20


def test_the_last_line_says_how_many_times_cheaper() -> None:
    names = {"prompted": 0.02, "tuned teacher": 2e-3, "student": 5e-4, "student, q8_0": 4e-4, "linear": 4e-5}
    names |= {f"linear → student, q8_0 → tuned teacher{end}": s for end, s in (("", 2e-4), (", at its best", 2.5e-4))}
    rows = [{"name": name, "accuracy": 0.9, "seconds_per_request": seconds} for name, seconds in names.items()]
    found = _summary(rows, "student, q8_0")
    assert found["cost_ratio"] == pytest.approx(5)
    assert found["prompted_cost_ratio"] == pytest.approx(50)
    assert found["cascade_cost_ratio"] == pytest.approx(10)
    assert found["best_cascade_cost_ratio"] == pytest.approx(8)
    assert _summary(rows[1:], "student, q8_0")["prompted_cost_ratio"] is None
    rows[1]["seconds_per_request_by_round"], rows[3]["seconds_per_request_by_round"] = (1, 4, 3), (1, 1, 1)
    found = _summary(rows, "student, q8_0")
    assert (found["cost_ratio"], found["cost_ratio_range"]) == (3, (1, 4))


def test_layers_are_those_of_the_student_in_the_cache(tmp_path: Path) -> None:
    write_tiny(tmp_path / "banking77-student", num_layers=2, labels=("a", "b"))
    (tmp_path / "banking77-student" / "training.json").write_text("{}")
    student = load_model(tmp_path / "banking77-student")

    def of(spec: str) -> tuple[int, ...]:
        options = argparse.Namespace(cache=tmp_path, minutes=1.0, threads=1, student=spec, variants=None, prompted=0)
        return layers_of(job_of("banking77", options), student)

    assert of("layers=0+4,vocab=all") == (0, 4)
    for other in ("layers=0+1+4", "layers=2"):
        with pytest.raises(InvalidRequest, match="has 2 layers"):
            of(other)
    (tmp_path / "banking77-student.work").mkdir()
    (tmp_path / "banking77-student.work" / "layers.json").write_text("[0, 3]")
    assert of("layers=0+1+4") == of("layers=2") == (0, 3)


def test_a_tuned_teacher_in_the_cache_is_taken(tmp_path: Path) -> None:
    options = argparse.Namespace(
        cache=tmp_path, minutes=1.0, threads=1, student="layers=2,vocab=all", variants=None, prompted=0
    )
    assert job_of("banking77", options).teacher == "smollm2-135m-instruct"
    (tmp_path / "banking77-teacher").mkdir()
    assert job_of("clinc150-oos", options) == job_of("clinc150", options)
    job = job_of("banking77", options)
    assert job.teacher == str(tmp_path / "banking77-teacher")
    assert job.student_recipe.minutes == 1.0
    assert job.student_recipe.epochs is not None

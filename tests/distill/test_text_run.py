"""`farthing distill` where answers are texts, on tiny models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from farthing.cli import main
from farthing.distill.samples import Sample, SparseTargets, check_samples
from farthing.distill.student import make_student
from farthing.distill.text_run import in_own_ids
from farthing.errors import InvalidRequest
from farthing.models import load_model
from tests.distill.tiny import TEXTS, write_tiny


def test_texts_are_taught_and_the_student_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "base", num_layers=3)
    rows = [{"prompt": f"{TEXTS[i % 6]} {i}", "answer": f"{TEXTS[(i + 1) % 6]} {i}"} for i in range(48)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = [
        "distill", "--teacher", str(tmp_path / "base"), "--data", str(tmp_path / "task.jsonl"), "-o",
        str(tmp_path / "student"), "--student", "layers=2,vocab=task", "--steps", "4", "--teacher-steps", "4",
        "--threads", "1", "--held-out", "0.2", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["labels"] is None
    names = [row["name"] for row in report["results"]]
    assert names == ["untrained teacher", "tuned teacher", "student", "student, q8_0"]
    assert report["results"][2]["kl"] >= 0
    student = load_model(tmp_path / "student")
    assert student.labels is None
    assert student.config.num_layers == 2
    before = (tmp_path / "student" / "model.safetensors").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "student" / "model.safetensors").read_bytes() == before


def test_what_the_student_cannot_say_leaves_the_teachers_distribution(tmp_path: Path) -> None:
    teacher = load_model(write_tiny(tmp_path / "base", num_layers=3))
    ids = teacher.tokenizer.encode(TEXTS[0])
    make_student(tmp_path / "base", tmp_path / "student", [0, 1], ids)
    student = load_model(tmp_path / "student")
    unknown = next(
        id for id in range(teacher.tokenizer.vocab_size)
        if student.tokenizer.token_id(teacher.tokenizer.token_text(id) or "") is None
    )  # fmt: skip
    probabilities = np.array([[0.5, 0.2, 0.1]], np.float32)
    targets = SparseTargets(
        np.array([[ids[1], unknown, ids[0]]], np.int32), np.log(probabilities), np.log(np.array([0.2], np.float32))
    )
    sample = Sample((ids[0], ids[1]), num_prompt_tokens=1, teacher=targets)
    [found] = in_own_ids([sample], teacher.tokenizer, student.tokenizer)
    assert isinstance(found.teacher, SparseTargets)
    texts = [student.tokenizer.token_text(id) for id in found.token_ids]
    assert texts == [teacher.tokenizer.token_text(id) for id in ids[:2]]
    np.testing.assert_allclose(np.exp(found.teacher.log_probs), [[0.625, 0, 0.125]], atol=1e-6)
    assert found.teacher.tail_log_mass is not None
    np.testing.assert_allclose(np.exp(found.teacher.tail_log_mass), [0.25], rtol=1e-5)
    assert found.teacher.ids.tolist()[0][1] == -1
    check_samples([found], "taught", None, student.config.vocab_size)
    drawn = replace(found, teacher=replace(found.teacher, tail_log_mass=None))
    with pytest.raises(InvalidRequest, match="ids that the model has not"):
        check_samples([drawn], "taught", None, student.config.vocab_size)


def test_rows_that_are_too_long_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny(tmp_path / "base", num_layers=3)
    rows = [{"prompt": f"{TEXTS[i % 6]} {i}", "answer": f"{TEXTS[(i + 1) % 6]} {i}"} for i in range(48)]
    rows += [{"prompt": f"{i}: " + "and so on " * 200, "answer": f"long {i}"} for i in range(8)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "short", "answer": "enough"}))
    assert main([
        "distill", "--teacher", str(tmp_path / "base"), "--data", str(tmp_path / "task.jsonl"), "-o",
        str(tmp_path / "student"), "--student", "layers=2,vocab=task", "--steps", "2", "--teacher-steps", "2",
        "--threads", "1", "--held-out", "0.2", "--json", "--test", str(tmp_path / "test.jsonl"), "--task", "text",
    ]) == 0  # fmt: skip
    told = capsys.readouterr()
    assert json.loads(told.out)["left_out"] == {"of more than 256 tokens": 8}
    assert "left out: 8 rows of more than 256 tokens" in told.err

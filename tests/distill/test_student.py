"""A student is its teacher with fewer layers and tokens, and nothing else changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from farthing.distill.student import StudentSpec, choose_layers, make_student, parse_student
from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.models import load_model
from farthing.models.safetensors import read_safetensors
from farthing.tuning.forward import Forward
from tests.distill.tiny import TEXTS, write_tiny
from tests.models.small import GOLDEN


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("teacher") / "tiny")


def hidden_after(folder: Path, layers: list[int], text: str) -> np.ndarray:
    """The stream after these layers, run in the given model."""
    model = load_model(folder)
    forward = Forward(model.plan(), [model.tokenizer.encode(text)])
    forward.embed(model.plan().tensors)
    for layer in layers:
        forward.layer(layer, model.plan().tensors)
    return forward.stream.copy()


def test_a_student_computes_what_the_kept_layers_of_the_teacher_compute(teacher: Path, tmp_path: Path) -> None:
    model = load_model(teacher)
    seen = {id for text in TEXTS[:3] for id in model.tokenizer.encode(text)}
    make_student(teacher, tmp_path / "student", [0, 2, 4], sorted(seen))
    student = load_model(tmp_path / "student")
    assert student.config.num_layers == 3
    assert student.config.vocab_size == student.tokenizer.vocab_size < model.config.vocab_size
    assert student.eos_ids == model.eos_ids
    for text in TEXTS[:3]:
        theirs = hidden_after(teacher, [0, 2, 4], text)
        np.testing.assert_array_equal(hidden_after(tmp_path / "student", [0, 1, 2], text), theirs)


def test_with_all_tokens_the_tokenizer_stays(teacher: Path, tmp_path: Path) -> None:
    make_student(teacher, tmp_path / "student", [0, 4])
    assert json.loads((tmp_path / "student" / "tokenizer.json").read_text()) == json.loads(
        (teacher / "tokenizer.json").read_text()
    )
    assert load_model(tmp_path / "student").config.vocab_size == load_model(teacher).config.vocab_size


def test_the_head_of_a_classifier_is_kept(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "classifier", labels=["card", "rate", "login"])
    make_student(folder, tmp_path / "student", [0, 1], [5, 6, 7])
    ours, theirs = read_safetensors(tmp_path / "student"), read_safetensors(folder)
    np.testing.assert_array_equal(ours["score.weight"].data, theirs["score.weight"].data)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["id2label"] == {"0": "card", "1": "rate", "2": "login"}


def test_layer_kinds_follow_their_layers(tmp_path: Path) -> None:
    for name in ("qwen2", "gemma3_text"):
        kinds = json.loads((GOLDEN / name / "config.json").read_text())["layer_types"]
        make_student(GOLDEN / name, tmp_path / name, [1], None)
        assert json.loads((tmp_path / name / "config.json").read_text())["layer_types"] == kinds[1:2]
        assert load_model(tmp_path / name).config.num_layers == 1


def test_the_layer_that_does_least_goes_first(teacher: Path) -> None:
    model = load_model(teacher)
    texts = [model.tokenizer.encode(text) for text in TEXTS]
    left: list[int] = []
    assert choose_layers(model, texts, 4, left.append) == (0, 1, 2, 4)
    assert left == [4]
    for num_layers in range(1, 6):
        kept = choose_layers(model, texts, num_layers)
        assert len(kept) == num_layers
        assert kept[0] == 0
        assert kept[-1] == 4 or num_layers == 1
    with pytest.raises(InvalidRequest, match="allowed: 1 to 5"):
        choose_layers(model, texts, 6)


def test_what_runs_again_is_what_follows(teacher: Path) -> None:
    """Angles of the model that is left are those of a student of these layers."""
    model = load_model(teacher)
    texts = [model.tokenizer.encode(text) for text in TEXTS]
    from farthing.distill.layers import _Angles

    ours = _Angles(model, texts)
    ours.all_angles()
    again = ours.angles_after(2, [0, 1, 3, 4])
    whole = _Angles(model, texts)
    whole._forward.embed(whole._tensors)
    whole._inputs = [whole._forward.stream.copy()]
    assert again == whole._run([0, 1, 3, 4])[2:]


def test_a_spec_is_read_and_checked() -> None:
    assert parse_student("layers=6,vocab=task") == StudentSpec(6, "task")
    assert parse_student("vocab=8192, layers=0+1+14+29") == StudentSpec((0, 1, 14, 29), 8192)
    assert parse_student("layers=2,vocab=all") == StudentSpec(2, "all")
    for wrong in (
        "",
        "layers",
        "layers=x",
        "vocab=task",
        "layers=0",
        "layers=3+1",
        "layers=6,depth=2",
        "layers=6,vocab=0",
    ):
        with pytest.raises(InvalidRequest, match="student"):
            parse_student(wrong)


def test_a_damaged_teacher_is_told_and_nothing_is_left(teacher: Path, tmp_path: Path) -> None:
    def damaged(name: str, content: bytes | None) -> Path:
        folder = tmp_path / f"damaged-{name}"
        shutil.copytree(teacher, folder)
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        return folder

    out = tmp_path / "student"
    with pytest.raises(CorruptModel):
        make_student(damaged("model.safetensors", (teacher / "model.safetensors").read_bytes()[:5000]), out, [0], None)
    with pytest.raises(CorruptModel):
        make_student(damaged("config.json", b"{"), out, [0], None)
    with pytest.raises(ModelNotFound):
        make_student(damaged("tokenizer.json", None), out, [0], [3])
    with pytest.raises(InvalidRequest, match="the teacher has 0 to 4"):
        make_student(teacher, out, [0, 5], None)
    assert not out.exists()
    assert not list(tmp_path.glob(".student*"))
    out.mkdir()
    (out / "something").write_text("")
    with pytest.raises(InvalidRequest, match="exists"):
        make_student(teacher, out, [0], None)


def test_layers_that_differ_by_number_are_refused(teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "windows"
    shutil.copytree(teacher, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"no_rope_layers": [0, 1]}))
    with pytest.raises(UnsupportedModel, match="differ by their number"):
        make_student(folder, tmp_path / "student", [0], None)

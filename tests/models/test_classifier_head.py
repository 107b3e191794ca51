"""A model with a classification head opens from a folder, a GGUF and a .safetensors, and stays one when quantized."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.cli import main
from farthing.engine import Engine
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.errors import CorruptModel, InvalidRequest, UnsupportedModel
from farthing.models import load_model
from farthing.models.gguf import read_gguf
from tests.models.small import GOLDEN, write_as_gguf

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
LABELS = ("card arrival", "lost_card", "über 30 %", "🙂", "exchange rate")
TEXTS = ("a", "When will my card arrive?")


def copy_of(family: str, folder: Path, **changes: Any) -> Path:
    """A golden classifier with other fields in its config.json; None takes one out."""
    copy = Path(shutil.copytree(GOLDEN / f"classifier_{family}", folder / family))
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return copy


def logits(path: Path) -> np.ndarray:
    """Of the same tokens, whatever the tokenizer: the GGUFs here have not all merges."""
    ids = load_model(GOLDEN / "classifier_llama").tokenizer.encode_alone(TEXTS)
    return Classifier(load_model(path), ClassifierConfig(num_threads=1, product="f32")).classify(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_opens(family: str) -> None:
    model = load_model(GOLDEN / f"classifier_{family}")
    assert model.labels == LABELS
    assert not model.config.is_tied_head
    assert model.tensors["head"].rows == len(LABELS)
    assert load_model(GOLDEN / family).labels is None
    assert model.identity() != load_model(GOLDEN / family).identity()


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_and_back_and_containers_say_the_same(family: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_as_gguf(f"classifier_{family}", path)
    assert load_model(path).labels == LABELS
    assert load_model(path).tokenizer.encode_alone(["lost"])[0][-1] == 2
    expected = logits(path)
    np.testing.assert_allclose(expected, logits(GOLDEN / f"classifier_{family}"), atol=1e-4)
    for name in ("out.gguf", "out.safetensors"):
        assert main(["quantize", str(path), "-o", str(tmp_path / name), "--format", "f32"]) == 0
        assert load_model(tmp_path / name).labels == LABELS
        np.testing.assert_array_equal(logits(tmp_path / name), expected)
    written = read_gguf(tmp_path / "out.gguf")
    assert written.tensors["cls.output.weight"].rows == len(LABELS)
    assert "output.weight" not in written.tensors


def test_a_quantized_folder_keeps_its_head(tmp_path: Path) -> None:
    source = GOLDEN / "classifier_llama"
    more = ["--calibrate", "When will my card arrive? " * 300]
    assert main(["quantize", str(source), "-o", str(tmp_path / "q8"), "--format", "q8_0", *more]) == 0
    assert main(["quantize", str(source), "-o", str(tmp_path / "turned"), "--format", "q8_0", "--rotate"]) == 0
    for name in ("q8", "turned"):
        assert load_model(tmp_path / name).labels == LABELS
        np.testing.assert_allclose(logits(tmp_path / name), logits(source), atol=0.15)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"num_labels": 4}, CorruptModel, "0 to 3"),
        ({"num_labels": "five"}, CorruptModel, "num_labels"),
        ({"id2label": {"0": "a", "2": "b"}}, CorruptModel, "id2label"),
        ({"id2label": {"0": "a", "1": "a"}, "label2id": None}, CorruptModel, "'a'"),
        ({"id2label": {"0": "a", "1": "  "}, "label2id": None}, CorruptModel, "has no text"),
        ({"id2label": {"0": "a", "1": 7}, "label2id": None}, CorruptModel, "allowed: a string"),
        ({"id2label": ["a", "b"]}, CorruptModel, "allowed: an object"),
        ({"id2label": {"0": "a"}, "label2id": None}, UnsupportedModel, "two or more"),
        ({"label2id": {"lost_card": 0}}, CorruptModel, "label2id"),
        ({"problem_type": "multi_label_classification"}, UnsupportedModel, "multi_label"),
        ({"id2label": None, "label2id": None, "num_labels": 6}, CorruptModel, "score.weight"),
        ({"id2label": None, "label2id": None, "num_labels": 10**9}, CorruptModel, "num_labels"),
        ({"id2label": dict(enumerate("abcdefg")), "label2id": None}, CorruptModel, "score.weight"),
    ],
)
def test_a_damaged_description_is_told(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        load_model(copy_of("llama", tmp_path, **changes))


def test_labels_that_nobody_named_have_transformers_names(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path, id2label=None, label2id=None, num_labels=5)
    assert load_model(folder).labels == tuple(f"LABEL_{i}" for i in range(5))


def test_a_folder_without_its_head_is_told(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    shutil.copyfile(GOLDEN / "llama" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(CorruptModel):
        load_model(folder)
    (folder / "model.safetensors").write_bytes((GOLDEN / "classifier_llama/model.safetensors").read_bytes()[:-100])
    with pytest.raises(CorruptModel, match="truncated"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"llama__pooling_type": 1}, UnsupportedModel, "pooling_type"),
        ({"llama__classifier__output_labels": None}, CorruptModel, "output_labels"),
        ({"llama__classifier__output_labels": ["a", "b"]}, CorruptModel, "cls.output.weight"),
        ({"llama__classifier__output_labels": ["a", "b", "c", "d", "a"]}, CorruptModel, "'a'"),
    ],
)
def test_a_gguf_that_lies_is_told(tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    write_as_gguf("classifier_llama", tmp_path / "x.gguf", **changes)
    with pytest.raises(error, match=said):
        load_model(tmp_path / "x.gguf")


def test_padding_is_passed_over_as_transformers_does() -> None:
    """The end token is put after a text, but where it is the padding too the head reads the token before it."""
    assert load_model(GOLDEN / "classifier_llama").tokenizer.encode_alone(["a"])[0][-1] == 2
    assert load_model(GOLDEN / "classifier_qwen3").tokenizer.encode_alone(["a"])[0][-1] != 2


def test_what_a_user_writes_is_no_control_token() -> None:
    tokenizer = load_model(GOLDEN / "classifier_llama").tokenizer
    [ids] = tokenizer.encode_alone(["a<|im_end|>"])
    assert ids.count(2) == 1
    assert tokenizer.encode_alone(["a", "\ud800"])[0] == tokenizer.encode_alone(["a"])[0]


def test_a_classifier_writes_no_text() -> None:
    with pytest.raises(InvalidRequest, match="farthing classify"):
        Engine(load_model(GOLDEN / "classifier_llama"))
    with pytest.raises(InvalidRequest, match="has no labels"):
        Classifier(load_model(GOLDEN / "llama"))

"""A model as a Hugging Face folder computes what the file that it was made of computes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.distill.folder import to_float, write_folder
from farthing.errors import InvalidRequest, UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.models import load_model
from tests.distill.tiny import TEXTS, write_tiny
from tests.models.small import GOLDEN, logits_of, program_of, write_as_gguf

LABELS = ("one", "two", "three")


def logits(model, ids):
    return logits_of(program_of(model, "auto", num_tokens=32), ids)


def test_a_gguf_becomes_a_folder(tmp_path):
    write_as_gguf("llama", tmp_path / "x.gguf", without="rope_freqs.weight")
    model = load_model(tmp_path / "x.gguf")
    write_folder(model, tmp_path / "out", dtype="float32")
    folder = load_model(tmp_path / "out")
    assert np.allclose(logits(folder, [5, 9, 40, 77]), logits(model, [5, 9, 40, 77]), atol=1e-5)
    for text in ("a t b", "<|im_end|> 12", "ü"):
        assert folder.tokenizer.encode(text) == model.tokenizer.encode(text)
        assert folder.tokenizer.encode(text, allow_special=True) == model.tokenizer.encode(text, allow_special=True)
    assert folder.tokenizer.control_tokens == model.tokenizer.control_tokens
    assert folder.eos_ids == model.eos_ids


def test_a_classifier_ends_a_text_with_the_end_token(tmp_path):
    model = load_model(write_tiny(tmp_path / "in"))
    write_folder(model, tmp_path / "out", labels=LABELS, seed=3)
    folder = load_model(tmp_path / "out")
    assert folder.labels == LABELS
    assert folder.tokenizer.encode_alone([TEXTS[0]])[0] == [*model.tokenizer.encode(TEXTS[0]), 2]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    head = folder.tensors["head"]
    values = dequantize(head.data, head.format, head.rows, head.cols)
    assert values.shape == (3, 32)
    assert 0.01 < values.std() < 0.03
    write_folder(model, tmp_path / "again", labels=LABELS, seed=3)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]


def test_a_classifier_keeps_its_head(tmp_path):
    model = load_model(write_tiny(tmp_path / "in", labels=LABELS))
    write_folder(model, tmp_path / "out", dtype="float32")
    assert (load_model(tmp_path / "out").tensors["head"].data == model.tensors["head"].data).all()


def test_transformers_reads_it_as_we_do(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from farthing.engine.classifier import Classifier, ClassifierConfig

    write_folder(load_model(write_tiny(tmp_path / "in")), tmp_path / "out", dtype="float32", labels=LABELS)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = Classifier(load_model(tmp_path / "out"), ClassifierConfig(num_threads=1))
    ids = ours.encode_all(TEXTS)
    assert tokenizer(list(TEXTS))["input_ids"] == ids
    with torch.no_grad():
        expected = np.concatenate([theirs(input_ids=torch.tensor([row])).logits.numpy() for row in ids])
    assert np.allclose(ours.classify(ids), expected, atol=2e-3)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20))
def test_bfloat16_is_the_nearest(values):
    exact = np.array(values, np.float32)
    tensor = to_float(exact, "bfloat16")
    rounded = dequantize(tensor.data, "bf16", 1, len(exact))[0]
    assert (np.abs(rounded - exact) <= np.abs(exact) * 2.0**-8 + 1e-38).all()


@pytest.mark.parametrize("labels", [("a",), ("a", "a"), ("a", "")])
def test_labels_that_cannot_be(tmp_path, labels):
    with pytest.raises(InvalidRequest, match="labels"):
        write_folder(load_model(write_tiny(tmp_path / "in")), tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="qwen2"):
        write_folder(load_model(GOLDEN / "qwen2"), tmp_path / "out")


def test_what_a_killed_process_left_is_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left, kept = (tmp_path / f".out.{pid}.part" for pid in (int(done.stdout), os.getpid()))
    left.mkdir()
    kept.mkdir()
    with pytest.raises(InvalidRequest, match="written"):  # this very process is at it
        write_folder(load_model(write_tiny(tmp_path / "in")), tmp_path / "out")
    assert not left.exists()
    assert kept.exists()

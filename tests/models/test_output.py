"""A model written with other weights: as GGUF, as safetensors, as a folder; what is written opens and says the same."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import InvalidRequest, ModelNotFound
from farthing.kernels.plan import QTensor
from farthing.models import load_model
from farthing.models.gguf import read_gguf
from farthing.models.opening import Checkpoint, open_checkpoint
from farthing.models.output import check_output, extra_tensors, open_output, output_kind, output_tensors
from farthing.quant import requantize
from tests.models.small import GOLDEN, SMALL, SPARSE, golden, logits_of, program_of, write_as_gguf


def write(source: Checkpoint, output: Path, format: str | None = None, **more: QTensor) -> None:
    """All matrices that can be in `format`, the rest as it is."""
    tensors = dict(source.tensors) | more
    if format is not None:
        tensors = {n: t if t.rows == 1 or t.cols % 32 else requantize(t, format) for n, t in tensors.items()}
    shapes = {name: (t.format, t.rows, t.cols) for name, t in tensors.items()}
    infos = output_tensors(source, shapes, output_kind(source, output))
    with open_output(source, output, infos, format or "f32") as sink:
        for name in reversed(tensors):  # any order
            sink.put(name, tensors[name])


def assert_same(a: Path, b: Path, name: str) -> None:
    """The same answers to a golden prompt."""
    ids = golden(f"{name}/golden.npz")["prompt_0"]
    ours, theirs = (logits_of(program_of(load_model(path), "portable", num_tokens=32), ids) for path in (a, b))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_gguf_to_gguf_and_safetensors(tmp_path: Path, name: str) -> None:
    path = tmp_path / "in.gguf"
    write_as_gguf(name, path)
    source = open_checkpoint(path)
    for suffix in (".gguf", ".safetensors"):
        out = tmp_path / f"out{suffix}"
        write(source, out)
        assert_same(path, out, name)
        assert load_model(out).tokenizer.encode("the end") == load_model(path).tokenizer.encode("the end")
    assert set(read_gguf(tmp_path / "out.gguf").tensors) == set(read_gguf(path).tensors)
    write(open_checkpoint(tmp_path / "out.safetensors"), tmp_path / "back.gguf")
    assert read_gguf(tmp_path / "back.gguf").shapes == read_gguf(path).shapes
    assert_same(path, tmp_path / "back.gguf", name)


@pytest.mark.parametrize("name", SMALL + SPARSE)
def test_folder_to_folder(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(GOLDEN / name, tmp_path / "in"))
    (folder / "pytorch_model.bin").write_bytes(b"weights of another kind")
    source, out = open_checkpoint(folder), tmp_path / "out"
    write(source, out, "q8_0")
    assert {p.name for p in out.iterdir()} == {p.name for p in (GOLDEN / name).iterdir()}
    found = load_model(out)
    for ours, tensor in load_model(out).tensors.items():
        expected = source.tensors[ours]
        if expected.rows > 1 and expected.cols % 32 == 0:
            expected = requantize(expected, "q8_0")
        assert (tensor.format, tensor.rows, tensor.cols) == (expected.format, expected.rows, expected.cols)
        np.testing.assert_array_equal(tensor.data, expected.data)
    assert found.tokenizer.encode("the end") == load_model(folder).tokenizer.encode("the end")


def test_a_tied_head_may_become_its_own(tmp_path: Path) -> None:
    write_as_gguf("qwen3", tmp_path / "in.gguf")
    for source, out in (
        (GOLDEN / "qwen3", "out"),
        (tmp_path / "in.gguf", "out.gguf"),
        (tmp_path / "in.gguf", "o.safetensors"),
    ):
        opened = open_checkpoint(source)
        assert opened.config.is_tied_head
        write(opened, tmp_path / out, head=requantize(opened.tensors["embed"], "f32"))
        assert not load_model(tmp_path / out).config.is_tied_head
        assert_same(source, tmp_path / out, "qwen3")


def test_experts_one_by_one_become_one_tensor(tmp_path: Path) -> None:
    write_as_gguf("mixtral", tmp_path / "in.gguf", is_one_by_one=True)
    write(open_checkpoint(tmp_path / "in.gguf"), tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").shapes["blk.0.ffn_gate_exps.weight"] == (5, 40, 32)
    assert_same(tmp_path / "in.gguf", tmp_path / "out.gguf", "mixtral")


def test_experts_of_two_formats_do_not_fit_one_tensor(tmp_path: Path) -> None:
    write_as_gguf("olmoe", tmp_path / "in.gguf")
    source = open_checkpoint(tmp_path / "in.gguf")
    one = {"layers.0.experts.3.gate": requantize(source.tensors["layers.0.experts.3.gate"], "q8_0")}
    with pytest.raises(InvalidRequest, match=r"blk\.0\.ffn_gate_exps\.weight holds a layer's experts in one format"):
        write(source, tmp_path / "out.gguf", **one)
    write(source, tmp_path / "out.safetensors", **one)
    assert load_model(tmp_path / "out.safetensors").tensors["layers.0.experts.3.gate"].format == "q8_0"


def test_tensors_without_a_use_are_copied(tmp_path: Path) -> None:
    """A head beside embeddings that are tied by the metadata's lack of one is used; rope factors and strangers stay."""
    write_as_gguf("llama", tmp_path / "in.gguf")
    source = open_checkpoint(tmp_path / "in.gguf")
    assert source.gguf is not None
    stranger = source.gguf.tensors["output_norm.weight"]
    source.gguf.tensors["v.stranger"] = stranger
    source.gguf.shapes["v.stranger"] = (stranger.cols,)
    assert set(extra_tensors(source)) == {"v.stranger"}
    write(source, tmp_path / "out.gguf")
    found = read_gguf(tmp_path / "out.gguf")
    np.testing.assert_array_equal(found.tensors["v.stranger"].data, stranger.data)
    assert "rope_freqs.weight" in found.tensors


def test_what_a_name_cannot_be(tmp_path: Path) -> None:
    write_as_gguf("llama", tmp_path / "in.gguf")
    file, folder = open_checkpoint(tmp_path / "in.gguf"), open_checkpoint(GOLDEN / "llama")
    with pytest.raises(InvalidRequest, match=r"a GGUF becomes a \.gguf or \.safetensors file"):
        output_kind(file, tmp_path / "out")
    assert [output_kind(folder, tmp_path / name) for name in ("out.gguf", "out")] == ["gguf", "folder"]
    with pytest.raises(InvalidRequest, match="exists; give another name, or remove it first"):
        check_output(tmp_path, "folder")
    with pytest.raises(InvalidRequest, match=r"the folder .*absent does not exist"):
        check_output(tmp_path / "absent" / "out", "folder")
    (tmp_path / "empty").mkdir()
    write(folder, tmp_path / "empty", "q8_0")
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "llama" / "model.safetensors", tmp_path)
    with pytest.raises(ModelNotFound, match="holds weights alone; give the folder"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("out", ["out.gguf", "out.safetensors", "out"])
def test_a_full_disk_and_an_interrupt_leave_nothing(tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_as_gguf("llama", tmp_path / "in.gguf")
    source = open_checkpoint(GOLDEN / "llama" if out == "out" else tmp_path / "in.gguf")
    shapes = {name: (t.format, t.rows, t.cols) for name, t in source.tensors.items()}
    infos = output_tensors(source, shapes, output_kind(source, tmp_path / out))

    with pytest.raises(KeyboardInterrupt), open_output(source, tmp_path / out, infos, "f32"):
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]

    def full(_file: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(InvalidRequest, match=r"cannot be written \(No space left on device\); .* MB are needed"),
        open_output(source, tmp_path / out, infos, "f32"),
    ):
        pytest.fail("the work began")
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_untied_config_keeps_its_other_keys(tmp_path: Path) -> None:
    source = open_checkpoint(GOLDEN / "qwen2")
    write(source, tmp_path / "out", head=source.tensors["embed"])
    before, after = (json.loads((f / "config.json").read_text()) for f in (GOLDEN / "qwen2", tmp_path / "out"))
    assert after == before | {"tie_word_embeddings": False}

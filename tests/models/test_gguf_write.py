"""Writing a GGUF: our reader and the package's find what went in; nothing half is ever left behind."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.kernels.formats import formats
from farthing.kernels.plan import QTensor
from farthing.models.gguf import read_gguf, read_gguf_values
from farthing.models.gguf_write import (
    TensorInfo,
    TensorToWrite,
    gguf_layout,
    gguf_values,
    gguf_values_section,
    write_gguf,
)
from farthing.quant import quantizable, quantize

RNG = np.random.default_rng(0)
GGML_FORMATS = [name for name in quantizable() if formats()[name].ggml_type is not None]


def make(path: Path) -> Path:
    """A small file of the package's, with values of many kinds and an alignment of its own."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "Ġb", "🦙"])
    writer.add_array("test.nested", [[1, 2], [3]])
    writer.add_bool("test.flag", True)
    writer.add_uint32("general.file_type", 1)
    writer.add_custom_alignment(64)
    writer.add_tensor("token_embd.weight", RNG.normal(size=(5, 96)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(format: str) -> list[TensorToWrite]:
    """A matrix, a vector, and two matrices in one tensor."""
    shapes = {"token_embd.weight": (5, 512), "norm.weight": (96,), "cube": (2, 3, 256)}

    def maker(shape: tuple[int, ...], format: str) -> Callable[[], QTensor]:
        return lambda: quantize(RNG.normal(size=(int(np.prod(shape[:-1])), shape[-1])).astype(np.float32), format)

    kinds = {"norm.weight": "f32"}
    return [TensorToWrite(n, s, kinds.get(n, format), maker(s, kinds.get(n, format))) for n, s in shapes.items()]


@pytest.mark.parametrize("format", GGML_FORMATS)
def test_both_readers_find_what_was_written(tmp_path: Path, format: str) -> None:
    source = read_gguf(make(tmp_path / "in.gguf"))
    made: dict[str, QTensor] = {}
    seen: list[tuple[int, int]] = []

    def kept(t: TensorToWrite) -> TensorToWrite:
        return TensorToWrite(t.name, t.shape, t.format, lambda: made.setdefault(t.name, t.make()))

    out = tmp_path / "out.gguf"
    values = gguf_values(source.raw_values, format)
    write_gguf(out, values, [kept(t) for t in tensors(format)], alignment=64, on_tensor=lambda *done: seen.append(done))
    ours, theirs = read_gguf(out), gguf.GGUFReader(out)

    assert seen == [(1, 3), (2, 3), (3, 3)]
    expected = {**source.metadata, "general.quantization_version": 2}
    expected["general.file_type"] = ours.metadata["general.file_type"]
    assert ours.metadata == expected
    assert all(ours.raw_values[key] == source.raw_values[key] for key in set(source.metadata) - {"general.file_type"})
    assert ours.shapes == {"token_embd.weight": (5, 512), "norm.weight": (96,), "cube": (2, 3, 256)}
    for t in theirs.tensors:
        assert t.tensor_type.name.lower() == made[t.name].format
        np.testing.assert_array_equal(np.ascontiguousarray(t.data).view(np.uint8).reshape(-1), made[t.name].data)
        np.testing.assert_array_equal(ours.tensors[t.name].data, made[t.name].data)
        assert t.data_offset % 64 == 0
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF.") and key != "test.nested":
            assert field.contents() == ours.metadata[key], key


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("f32", "ALL_F32"),
        ("f16", "MOSTLY_F16"),
        ("q8_0", "MOSTLY_Q8_0"),
        ("iq4_nl", "MOSTLY_IQ4_NL"),
        ("q4_k", "MOSTLY_Q4_K_S"),
        ("q3_k", "MOSTLY_Q3_K_S"),
        ("q2_k", "MOSTLY_Q2_K"),
        ("tq2_0", "MOSTLY_TQ2_0"),
        ("q4", "GUESSED"),
    ],
)
def test_file_type(format: str, name: str) -> None:
    value = gguf_values({}, format)["general.file_type"]
    assert struct.unpack("<II", value) == (gguf.GGUFValueType.UINT32, gguf.LlamaFileType[name])


def test_values_in_a_section_of_their_own(tmp_path: Path) -> None:
    source = read_gguf(make(tmp_path / "in.gguf"))
    section = gguf_values_section(source.raw_values)
    metadata, raw_values = read_gguf_values(tmp_path, section)
    assert (metadata, raw_values) == (source.metadata, source.raw_values)


def test_own_formats_have_no_type() -> None:
    with pytest.raises(InvalidRequest, match=r"no type for q4; its types: f32.*iq4_nl"):
        gguf_layout({}, [TensorInfo("a", (2, 32), "q4", ("a",))])


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    with pytest.raises(InvalidRequest, match="exists; give another name, or --force"):
        write_gguf(out, {}, tensors("q8_0"))
    assert out.read_text() == "precious"
    write_gguf(out, {}, tensors("q8_0"), is_overwrite=True)
    assert read_gguf(out).tensors["cube"].format == "q8_0"
    with pytest.raises(InvalidRequest, match="exists"):
        write_gguf(tmp_path, {}, tensors("q8_0"), is_overwrite=True)
    with pytest.raises(InvalidRequest, match=r"the folder .*absent does not exist"):
        write_gguf(tmp_path / "absent" / "out.gguf", {}, tensors("q8_0"))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "out.gguf", {}, tensors("bf16"), on_tensor=interrupt)
    assert list(tmp_path.iterdir()) == []

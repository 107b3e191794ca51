"""Re-blocking a GGUF: metadata stays byte for byte, tensors are requantized, and nothing half is ever left behind."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from farthing.errors import InvalidRequest, UnsupportedModel
from farthing.kernels.formats import format_of
from farthing.models.gguf import read_gguf
from farthing.models.gguf_write import reblock_gguf
from farthing.quant import quantizable, requantize

RNG = np.random.default_rng(0)
FILE_TYPES = {"f32": "ALL_F32"} | {f"q{bits}_k": f"MOSTLY_Q{bits}_K_S" for bits in (3, 4, 5)}


def make(path: Path, poison: float = 0.0, num_parts: int = 1) -> Path:
    """A small file: matrices that fit blocks of 256, of 32 and of none, vectors in f32 and f16, a cube."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "Ġb", "🦙"])
    writer.add_array("test.nested", [[1, 2], [3]])
    writer.add_bool("test.flag", True)
    writer.add_uint32("general.file_type", 1)
    writer.add_custom_alignment(64)
    if num_parts > 1:
        writer.add_uint16("split.count", num_parts)
    matrix = RNG.normal(size=(5, 96)).astype(np.float32)
    matrix[2, 3] += np.float32(poison)
    writer.add_tensor("token_embd.weight", matrix)
    q8_0 = GGMLQuantizationType.Q8_0
    writer.add_tensor("blk.0.attn_q.weight", gguf.quants.quantize(np.nan_to_num(matrix) * 2, q8_0), raw_dtype=q8_0)
    writer.add_tensor("odd.weight", RNG.normal(size=(3, 10)).astype(np.float16))
    writer.add_tensor("wide.weight", RNG.normal(size=(2, 512)).astype(np.float32))
    writer.add_tensor("norm.weight", RNG.normal(size=96).astype(np.float32))
    writer.add_tensor("half.bias", RNG.normal(size=7).astype(np.float16))
    writer.add_tensor("cube", RNG.normal(size=(2, 3, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("format", [name for name in quantizable() if format_of(name).ggml_type is not None])
def test_reblocked_file(tmp_path: Path, format: str) -> None:
    source = read_gguf(make(tmp_path / "in.gguf"))
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out.gguf"
    result = reblock_gguf(source, out, format, on_tensor=lambda done, total: seen.append((done, total)))
    got = read_gguf(out)

    expected = {**source.metadata, "general.quantization_version": 2}
    expected["general.file_type"] = gguf.LlamaFileType[FILE_TYPES.get(format, f"MOSTLY_{format.upper()}")]
    assert got.metadata == expected
    untouched = set(source.metadata) - {"general.file_type"}
    assert all(got.raw_values[key] == source.raw_values[key] for key in untouched)
    assert got.shapes == source.shapes
    assert list(got.tensors) == list(source.tensors)
    size = format_of(format).block_size
    kept = [n for n, t in source.tensors.items() if t.rows > 1 and t.cols % size]
    formats = dict.fromkeys(source.tensors, format) | {name: source.tensors[name].format for name in kept}
    formats |= {"norm.weight": "f32", "half.bias": "f32"}
    for name, tensor in source.tensors.items():
        assert got.tensors[name].format == formats[name]
        np.testing.assert_array_equal(got.tensors[name].data, requantize(tensor, formats[name]).data)

    assert seen == [(i, 7) for i in range(1, 8)]
    assert result.num_tensors == 7
    assert result.num_kept == len(kept) == {1: 0, 32: 1, 256: 4}[size]
    assert result.num_weights == 5 * 96 * 2 + 30 + 1024 + 96 + 7 + 192
    assert result.tensor_bytes_after == sum(t.data.nbytes for t in got.tensors.values())


def test_the_packages_reader_agrees(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    reblock_gguf(read_gguf(make(tmp_path / "in.gguf")), out, "q4_1")
    ours = read_gguf(out)
    theirs = gguf.GGUFReader(out)
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for t in theirs.tensors:
        assert t.tensor_type.name.lower() == ours.tensors[t.name].format
        raw = np.ascontiguousarray(t.data).view(np.uint8).reshape(-1)
        np.testing.assert_array_equal(raw, ours.tensors[t.name].data)
        assert t.data_offset % 64 == 0
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF.") and key != "test.nested":
            assert field.contents() == ours.metadata[key], key


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    source = read_gguf(make(tmp_path / "in.gguf"))
    out = tmp_path / "out.gguf"
    out.write_text("precious")
    with pytest.raises(InvalidRequest, match="exists; give another name, or --force"):
        reblock_gguf(source, out, "q8_0")
    assert out.read_text() == "precious"
    reblock_gguf(source, out, "q8_0", is_overwrite=True)
    assert read_gguf(out).metadata["general.file_type"] == 7
    with pytest.raises(InvalidRequest, match="exists"):
        reblock_gguf(source, tmp_path, "q8_0", is_overwrite=True)


def test_a_file_may_replace_itself(tmp_path: Path) -> None:
    path = make(tmp_path / "in.gguf")
    source = read_gguf(path)
    expected = requantize(source.tensors["token_embd.weight"], "q4_0").data
    reblock_gguf(source, path, "q4_0", is_overwrite=True)
    np.testing.assert_array_equal(read_gguf(path).tensors["token_embd.weight"].data, expected)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    poisoned = read_gguf(make(tmp_path / "in.gguf", poison=np.nan))
    with pytest.raises(InvalidRequest, match=r"'token_embd\.weight': some weights are not finite"):
        reblock_gguf(poisoned, tmp_path / "out.gguf", "q4_1")

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reblock_gguf(poisoned, tmp_path / "out.gguf", "bf16", on_tensor=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    source = read_gguf(make(tmp_path / "in.gguf"))
    with pytest.raises(InvalidRequest, match=r"'q4'; allowed in a GGUF file: f32.*iq4_nl"):
        reblock_gguf(source, tmp_path / "out.gguf", "q4")
    with pytest.raises(InvalidRequest, match=r"the folder .*absent does not exist"):
        reblock_gguf(source, tmp_path / "absent" / "out.gguf", "q4_1")
    part = read_gguf(make(tmp_path / "part.gguf", num_parts=3))
    with pytest.raises(UnsupportedModel, match="one part of a model"):
        reblock_gguf(part, tmp_path / "out.gguf", "q4_1")

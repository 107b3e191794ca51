"""Safetensors: views that equal what the library wrote, blocks of bits as we wrote them, an error by name for every
lie."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from farthing.errors import CorruptModel, ModelError, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import dequantize, format_of
from farthing.kernels.plan import QTensor
from farthing.models.block_tensors import BLOCKS_KEY, GGUF_KEY
from farthing.models.gguf_write import TensorInfo
from farthing.models.output_file import ModelSink, new_file
from farthing.models.safetensors import read_safetensors, read_safetensors_file
from farthing.models.safetensors_write import safetensors_layout
from farthing.quant import quantizable, quantize

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(3, 8)).astype(np.float32),
    "b.weight": RNG.normal(size=(2, 5)).astype(np.float16),
    "norm": RNG.normal(size=7).astype(np.float32),
    "experts": RNG.normal(size=(2, 3, 4)).astype(np.float32),
}
GOOD = save(ARRAYS)


def file_of(header: object, data: bytes = bytes(64)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def test_single_file_and_folder(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        tensors = read_safetensors(source)
        assert set(tensors) == set(ARRAYS)
        for name, array in ARRAYS.items():
            t = tensors[name]
            assert (t.rows, t.cols) == (array.size // array.shape[-1], array.shape[-1])
            got = dequantize(t.data, t.format, t.rows, t.cols)
            np.testing.assert_array_equal(got, array.reshape(t.rows, t.cols).astype(np.float32))
            assert not t.data.flags.writeable


def test_bf16_is_a_view_of_the_bytes(tmp_path: Path) -> None:
    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], np.uint16)
    header = {"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    t = read_safetensors(write(tmp_path / "x.safetensors", file_of(header, bits.tobytes())))["w"]
    assert t.format == "bf16"
    np.testing.assert_array_equal(dequantize(t.data, t.format, 2, 2)[0], [1.0, -2.0])


def test_shards(tmp_path: Path) -> None:
    names = list(ARRAYS)
    files = {names[0]: "model-1.safetensors", **dict.fromkeys(names[1:], "model-2.safetensors")}
    for file in set(files.values()):
        save_file({n: ARRAYS[n] for n in names if files[n] == file}, tmp_path / file)
    index = write(tmp_path / "model.safetensors.index.json", json.dumps({"weight_map": files}).encode())
    assert set(read_safetensors(tmp_path)) == set(names)

    index.write_text(json.dumps({"weight_map": {**files, "ghost": "model-1.safetensors"}}))
    with pytest.raises(CorruptModel, match=r"'ghost' is not in model-1\.safetensors"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(CorruptModel, match="beside the index"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": {"x": "model-9.safetensors"}}))
    with pytest.raises(ModelNotFound, match=r"model-9\.safetensors"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": []}))
    with pytest.raises(CorruptModel, match="weight_map"):
        read_safetensors(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="neither"):
        read_safetensors(tmp_path)
    with pytest.raises(ModelNotFound, match="cannot be read"):
        read_safetensors(tmp_path / "absent.safetensors")


def entry(dtype: object = "F32", shape: object = (2, 8), offsets: object = (0, 64)) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (b"", CorruptModel, "empty"),
        (b"abc", CorruptModel, "truncated"),
        (struct.pack("<Q", 2**63) + b"{}", CorruptModel, str(2**63)),
        (GOOD[:-1], CorruptModel, "truncated or corrupt"),
        (file_of(b"{not json"), CorruptModel, "not JSON"),
        (file_of(b"\xff\xfe{}"), CorruptModel, "not JSON"),
        (file_of(b"[" * 100_000), CorruptModel, "not JSON"),
        (file_of([1]), CorruptModel, "not a JSON object"),
        (file_of(b'{"w":1,"w":2}'), CorruptModel, "twice"),
        (file_of({"w": 3}), CorruptModel, "'w' is described by 3"),
        (file_of(entry(dtype="I64")), UnsupportedModel, "'w' has dtype I64; supported: F32"),
        (file_of(entry(dtype=[])), UnsupportedModel, "dtype"),
        (file_of(entry(dtype=None)), UnsupportedModel, "dtype None"),
        (file_of(entry(shape=[2, -8])), CorruptModel, "shape"),
        (file_of(entry(shape=[2, 0])), CorruptModel, "shape"),
        (file_of(entry(shape=[True, 8])), CorruptModel, "shape"),
        (file_of(entry(shape="2x8")), CorruptModel, "shape"),
        (file_of(entry(shape=[2, 7])), CorruptModel, "cannot lie in 64 bytes"),
        (file_of(entry(offsets=[64, 0])), CorruptModel, "ascending"),
        (file_of(entry(offsets=[0])), CorruptModel, "ascending"),
        (file_of(entry(offsets=[64, 128])), CorruptModel, "ends at byte"),
        (file_of(entry(shape=[2**40], offsets=[0, 2**42])), CorruptModel, "ends at byte"),
        (file_of(entry(offsets=[0, 2**64])), CorruptModel, "ascending"),
        (file_of(entry(shape=[2**40, 2**40], offsets=[0, 2**62])), CorruptModel, "cannot lie"),
        (file_of({**entry(), "v": entry(shape=[1], offsets=[60, 64])["w"]}), CorruptModel, "'w' and 'v' overlap"),
    ],
)
def test_every_lie_is_named(tmp_path: Path, raw: bytes, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_safetensors(write(tmp_path / "x.safetensors", raw))


def write_blocks(path: Path, tensors: dict[str, QTensor], gguf_section: bytes | None = None) -> Path:
    infos = [TensorInfo(n, (t.rows, t.cols) if t.rows > 1 else (t.cols,), t.format, (n,)) for n, t in tensors.items()]
    layout = safetensors_layout(infos, gguf_section)
    with new_file(path, layout.num_bytes, is_overwrite=True) as file:
        sink = ModelSink(file, layout)
        for name, tensor in tensors.items():
            sink.put(name, tensor)
        sink.check()
    return path


BLOCKS = {
    "a": quantize(RNG.normal(size=(3, 64)).astype(np.float32), "q3"),
    "b": quantize(RNG.normal(size=7).astype(np.float32), "f32"),
    "c": quantize(RNG.normal(size=(2, 128)).astype(np.float32), "t2"),
}


def test_blocks_of_every_format(tmp_path: Path) -> None:
    tensors = {
        format: quantize(RNG.normal(size=(3, 2 * format_of(format).block_size)).astype(np.float32), format)
        for format in quantizable()
    }
    path = write_blocks(tmp_path / "x.safetensors", tensors, b"section")
    found = read_safetensors_file(path)
    assert list(found.tensors) == sorted(tensors, key=lambda f: ["f32", "f16", "bf16", *tensors].index(f))
    for name, tensor in tensors.items():
        got = found.tensors[name]
        assert (got.format, got.rows, got.cols) == (tensor.format, tensor.rows, tensor.cols)
        np.testing.assert_array_equal(got.data, tensor.data)
    assert found.metadata[GGUF_KEY] == "c2VjdGlvbg=="
    assert int.from_bytes(path.read_bytes()[:8], "little") % 64 == 56  # so that floats are aligned


def test_the_library_reads_what_we_wrote(tmp_path: Path) -> None:
    path = write_blocks(tmp_path / "x.safetensors", BLOCKS)
    found = load_file(path)
    np.testing.assert_array_equal(found["a"], BLOCKS["a"].data)
    np.testing.assert_array_equal(found["b"], BLOCKS["b"].data.view(np.float32))


def described(text: object, dtype: str = "U8", num_bytes: int = 36) -> bytes:
    """A file of one tensor w with this text about blocks."""
    about = text if isinstance(text, str) else json.dumps(text)
    w = {"dtype": dtype, "shape": [num_bytes], "data_offsets": [0, num_bytes]}
    return file_of({"__metadata__": {BLOCKS_KEY: about}, "w": w})


def blocks(*entry: object, version: object = 1, **more: object) -> dict[str, object]:
    return {"version": version, "tensors": {"w": list(entry), **more}}


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (described("{"), CorruptModel, "farthing.blocks in its metadata is not JSON"),
        (described("[" * 100_000), CorruptModel, "not JSON"),
        (described([]), CorruptModel, "an object with version 1"),
        (described(blocks("q4", 2, 32, version=2)), UnsupportedModel, "version 2; supported: 1"),
        (described(blocks("q4", 2, 32, version="1")), CorruptModel, "an object with version 1"),
        (described(blocks("q4", 2, 32, version=True)), CorruptModel, "an object with version 1"),
        (described({"version": 1, "tensors": []}), CorruptModel, "and tensors"),
        (described(blocks("q9", 2, 32)), UnsupportedModel, "the format 'q9'; supported: f32"),
        (described(blocks("q4", 2, 33)), CorruptModel, "rows and columns of whole blocks"),
        (described(blocks("q4", -2, 32)), CorruptModel, "rows and columns"),
        (described(blocks("q4", 0, 32)), CorruptModel, "rows and columns"),
        (described(blocks("q4", 2.0, 32)), CorruptModel, "rows and columns"),
        (described(blocks("q4", True, 32)), CorruptModel, "rows and columns"),
        (described(blocks("q4", 2**70, 32)), CorruptModel, "rows and columns"),
        (described(blocks("q4", 2)), CorruptModel, "rows and columns"),
        (described(blocks("q4", 3, 32)), CorruptModel, r"36 bytes; its description says q4 \[3, 32\], which is 54"),
        (described(blocks("q4", 2, 32), dtype="F32", num_bytes=9), CorruptModel, "which is 36 bytes of U8"),
        (described(blocks("q4", 2, 32, ghost=["q4", 2, 32])), CorruptModel, "'ghost', which is not in the file"),
        (described({"version": 1, "tensors": {}}), UnsupportedModel, "'w' has dtype U8; supported"),
        (file_of({"__metadata__": {"a": 1}}), CorruptModel, "__metadata__ must map names to texts"),
        (file_of({"__metadata__": []}), CorruptModel, "__metadata__ must map names to texts"),
    ],
)
def test_every_lie_about_blocks_is_named(tmp_path: Path, raw: bytes, error: type[ModelError], message: str) -> None:
    with pytest.raises(error, match=message):
        read_safetensors(write(tmp_path / "x.safetensors", raw))


@pytest.fixture(scope="module")
def good_blocks(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_blocks(tmp_path_factory.mktemp("blocks") / "x.safetensors", BLOCKS, b"section").read_bytes()


@settings(deadline=None)
@given(st.data(), st.booleans())
def test_mutations_never_crash(
    tmp_path_factory: pytest.TempPathFactory, good_blocks: bytes, data: st.DataObject, is_of_blocks: bool
) -> None:
    raw = bytearray(good_blocks if is_of_blocks else GOOD)
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))]
    path = write(tmp_path_factory.mktemp("fuzz") / "x.safetensors", bytes(raw))
    try:
        tensors = read_safetensors(path)
    except (CorruptModel, UnsupportedModel):
        return
    for t in tensors.values():
        assert dequantize(t.data, t.format, t.rows, t.cols).shape == (t.rows, t.cols)

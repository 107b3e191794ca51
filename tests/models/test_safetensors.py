"""Reading safetensors: views that equal what the library wrote, and an error by name for every lie."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from farthing.errors import CorruptModel, ModelError, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.models.safetensors import read_safetensors

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


@given(st.data())
def test_mutations_never_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(GOOD)
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

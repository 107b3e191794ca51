"""Reading GGUF: what the gguf package writes comes back as written, and every lie in a file is an error by name."""

import os
import random
import resource
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import CorruptModel, ModelError, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.models.gguf import read_gguf

METADATA = {
    "test.u8": (7, GGUFValueType.UINT8),
    "test.i8": (-7, GGUFValueType.INT8),
    "test.u16": (60_000, GGUFValueType.UINT16),
    "test.i16": (-30_000, GGUFValueType.INT16),
    "test.u32": (2**32 - 1, GGUFValueType.UINT32),
    "test.i32": (-(2**31), GGUFValueType.INT32),
    "test.f32": (0.5, GGUFValueType.FLOAT32),
    "test.bool": (True, GGUFValueType.BOOL),
    "test.string": ("héllo 🦙 \0 end", GGUFValueType.STRING),
    "test.u64": (2**64 - 1, GGUFValueType.UINT64),
    "test.i64": (-(2**63), GGUFValueType.INT64),
    "test.f64": (0.1, GGUFValueType.FLOAT64),
}
ARRAYS = {
    "test.strings": ["", "a", "b" * 300, "Ġthe", "\0", ""],
    "test.ints": [1, -2, 3],
    "test.bools": [True, False],
    "test.floats": [0.25, -1.0],
    "test.nested": [[1, 2], [3, 4]],
}


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GGUF with every type of metadata and tensors in several formats."""
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, (value, kind) in METADATA.items():
        writer.add_key_value(key, value, kind)
    for key, items in ARRAYS.items():
        writer.add_array(key, items)
    rng = np.random.default_rng(0)
    for kind in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16"):
        weights = rng.normal(size=(3, 64)).astype(np.float32)
        raw_dtype = GGMLQuantizationType[kind]
        writer.add_tensor(f"{kind.lower()}.weight", gguf.quants.quantize(weights, raw_dtype), raw_dtype=raw_dtype)
    writer.add_tensor("vector", rng.normal(size=5).astype(np.float32))
    writer.add_tensor("cube", rng.normal(size=(2, 3, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_metadata_comes_back(sample: Path) -> None:
    got = read_gguf(sample)
    assert got.version == 3
    assert got.metadata == {"general.architecture": "llama", **{k: v for k, (v, _) in METADATA.items()}, **ARRAYS}
    for key, (_, kind) in METADATA.items():
        assert got.raw_values[key][:4] == struct.pack("<I", kind)
    strings = b"".join(map(text, ARRAYS["test.strings"]))
    assert got.raw_values["test.strings"] == struct.pack("<IIQ", ARRAY, STRING, len(ARRAYS["test.strings"])) + strings


def test_tensors_equal_the_packages_reader(sample: Path) -> None:
    got = read_gguf(sample)
    theirs = gguf.GGUFReader(sample).tensors
    assert list(got.tensors) == [t.name for t in theirs]
    for t in theirs:
        ours = got.tensors[t.name]
        shape = tuple(int(n) for n in t.shape[::-1])
        assert got.shapes[t.name] == shape
        assert (ours.rows, ours.cols) == (int(np.prod(shape[:-1])), shape[-1])
        expected = gguf.quants.dequantize(np.ascontiguousarray(t.data), t.tensor_type).reshape(ours.rows, ours.cols)
        np.testing.assert_array_equal(dequantize(ours.data, ours.format, ours.rows, ours.cols), expected)
        assert not ours.data.flags.writeable
    assert (got.tensors["vector"].rows, got.tensors["cube"].rows) == (1, 6)


# --- files made by hand, so that each field can lie ---


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str = "w", dims: tuple[int, ...] = (32, 2), kind: int = 0, offset: int = 0) -> bytes:
    packed = struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
    return text(name) + packed + struct.pack("<IQ", kind, offset)


def file_of(
    pairs: list[bytes] = (), infos: list[bytes] = (), magic: bytes = b"GGUF", version: int = 3,
    num_tensors: int | None = None, num_keys: int | None = None, data: bytes = bytes(512),
) -> bytes:  # fmt: skip
    counts = (len(infos) if num_tensors is None else num_tensors, len(pairs) if num_keys is None else num_keys)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


U32, BOOL, STRING, ARRAY = 4, 7, 8, 9
HUGE = struct.pack("<Q", 2**64 - 1)


def alignment(value: int) -> bytes:
    return pair("general.alignment", U32, struct.pack("<I", value))


def array(items: int, count: bytes, rest: bytes = b"") -> bytes:
    return pair("key", ARRAY, struct.pack("<I", items) + count + rest)


LIES = {
    "empty": (b"", CorruptModel, "empty"),
    "short": (b"GGUF\3\0", CorruptModel, "truncated.*the header"),
    "magic": (file_of(magic=b"GGML"), CorruptModel, "not a GGUF file.*b'GGML'"),
    "version 1": (file_of(version=1), UnsupportedModel, "version 1; supported: 2 and 3"),
    "version 4": (file_of(version=4), UnsupportedModel, "version 4"),
    "big-endian": (file_of(version=3 << 24), UnsupportedModel, "big-endian"),
    "tensor count": (file_of(num_tensors=2**64 - 1), CorruptModel, f"tensor count is {2**64 - 1}"),
    "key count": (file_of(num_keys=2**62), CorruptModel, f"key count is {2**62}"),
    "count 1 too many": (file_of(num_keys=1, data=b""), CorruptModel, "key count|truncated"),
    "key length": (file_of([HUGE + bytes(64)]), CorruptModel, "a key of the metadata needs"),
    "string length": (file_of([pair("key", STRING, HUGE)]), CorruptModel, "value of key 'key' needs"),
    "value type": (file_of([pair("key", 13, bytes(8))]), CorruptModel, "'key' has the unknown value type 13"),
    "item type": (file_of([array(77, struct.pack("<Q", 1))]), CorruptModel, "unknown value type 77"),
    "item count": (file_of([array(U32, HUGE)]), CorruptModel, f"item count of key 'key' is {2**64 - 1}"),
    "item count, strings": (file_of([array(STRING, HUGE)]), CorruptModel, "item count of key 'key'"),
    "numbers beyond": (file_of([array(12, struct.pack("<Q", 500))]), CorruptModel, "truncated.*'key'"),
    "string beyond": (file_of([array(STRING, struct.pack("<Q", 2), text("a") + HUGE)]), CorruptModel, "item 1 of key"),
    "strings end": (file_of([array(STRING, struct.pack("<Q", 2), text("a"))], data=b""), CorruptModel, "key 'key'"),
    "utf-8 key": (file_of([text(b"\xff\xfe") + bytes(12)]), CorruptModel, "not UTF-8"),
    "utf-8 item": (file_of([array(STRING, struct.pack("<Q", 1), text(b"\xc3"))]), CorruptModel, "'key' is not UTF-8"),
    "truth value": (file_of([pair("key", BOOL, b"\2")]), CorruptModel, "truth value of 2"),
    "deep arrays": (
        file_of([pair("key", ARRAY, (struct.pack("<IQ", ARRAY, 1)) * 20)]), CorruptModel, "arrays more than 4 deep"),
    "key twice": (file_of([pair("a", BOOL, b"\1"), pair("a", BOOL, b"\1")]), CorruptModel, "'a' appears twice"),
    "tensor twice": (file_of(infos=[info("w"), info("w", offset=256)]), CorruptModel, "tensor 'w' appears twice"),
    "no dimensions": (file_of(infos=[info(dims=())]), CorruptModel, "'w' has 0 dimensions"),
    "five dimensions": (file_of(infos=[info(dims=(1,) * 5)]), CorruptModel, "'w' has 5 dimensions"),
    "zero dimension": (file_of(infos=[info(dims=(32, 0))]), CorruptModel, r"shape \[0, 32\]"),
    "overflow": (file_of(infos=[info(dims=(2**62, 2**62, 16))]), CorruptModel, "'w' ends at byte"),
    "tensor type": (file_of(infos=[info(kind=16, dims=(256, 1))]), UnsupportedModel, "'w' has type IQ2_XXS.*Q4_1"),
    "tensor type ?": (file_of(infos=[info(kind=999)]), UnsupportedModel, "'w' has type number 999"),
    "partial block": (file_of(infos=[info(kind=2, dims=(33, 1))]), CorruptModel, "'w' has 33 columns.*32"),
    "tensor beyond": (file_of(infos=[info(offset=512)]), CorruptModel, "'w' ends at byte"),
    "offset 2**64": (file_of(infos=[info(offset=2**64 - 32)]), CorruptModel, "'w' ends at byte"),
    "offset": (file_of(infos=[info(offset=4)]), CorruptModel, "'w' starts at 4, not a multiple"),
    "overlap": (file_of(infos=[info("w"), info("v", offset=128)]), CorruptModel, "'w' and 'v' overlap"),
    "alignment 0": (file_of([alignment(0)]), CorruptModel, "general.alignment is 0"),
    "alignment 48": (file_of([alignment(48)]), CorruptModel, "power of two"),
    "alignment text": (file_of([pair("general.alignment", STRING, text("32"))]), CorruptModel, "alignment is '32'"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_is_named(tmp_path: Path, lie: str) -> None:
    raw, error, message = LIES[lie]
    path = tmp_path / "lie.gguf"
    path.write_bytes(raw)
    with pytest.raises(error, match=message) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)


def test_an_honest_file_made_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(file_of([alignment(64)], [info("w"), info("v", offset=256)], version=2, data=bytes(600)))
    assert list(read_gguf(path).tensors) == ["w", "v"]


def test_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelNotFound, match="cannot be read"):
            read_gguf(path)


def test_every_truncation_is_an_error(sample: Path, tmp_path: Path) -> None:
    raw = sample.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(0, len(raw) - 32, 7):  # the last bytes may be padding
        path.write_bytes(raw[:length])
        with pytest.raises(CorruptModel):
            read_gguf(path)


def check(path: Path) -> None:
    """Reads `path`; if it is accepted, every tensor must be readable."""
    try:
        got = read_gguf(path)
    except (CorruptModel, UnsupportedModel):
        return
    for t in got.tensors.values():
        assert dequantize(t.data, t.format, t.rows, t.cols).shape == (t.rows, t.cols)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_mutations_never_crash(sample: Path, data: st.DataObject) -> None:
    raw = bytearray(sample.read_bytes())
    header = raw.index(b"cube") + 60
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, header))
        patch = data.draw(st.binary(min_size=1, max_size=1) | st.sampled_from([HUGE, HUGE[:4], bytes(8)]))
        raw[at : at + len(patch)] = patch
    path = sample.with_name("mutated.gguf")
    path.write_bytes(raw)
    check(path)


@pytest.mark.torture
def test_random_damage_within_time_and_memory(sample: Path) -> None:
    """FARTHING_FUZZ_S seconds (default 60) of random damage; memory may not grow with what the file claims."""
    rng = random.Random(0)
    good = sample.read_bytes()
    path = sample.with_name("torture.gguf")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + float(os.environ.get("FARTHING_FUZZ_S", "60"))
    num_runs = 0
    while time.monotonic() < end:
        raw = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(raw) - 8)
            width = rng.choice([1, 1, 1, 4, 8])
            raw[at : at + width] = rng.choice([rng.randbytes(width), b"\xff" * width, bytes(width)])
        if rng.random() < 0.2:
            at = rng.randrange(len(raw))
            raw[at:at] = rng.randbytes(rng.randint(1, 16))
        path.write_bytes(raw)
        check(path)
        num_runs += 1
    assert num_runs > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_all_errors_are_model_errors() -> None:
    assert {error for _, error, _ in LIES.values()} <= set(ModelError.__subclasses__())

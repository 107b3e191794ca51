"""A memory-mapped reader of GGUF files, versions 2 and 3 (github.com/ggml-org/ggml/blob/master/docs/gguf.md).

    magic "GGUF" | version u32 | tensor count u64 | key count u64 | keys | tensor infos | padding | tensor data

Nothing in the file is believed: every length is compared with the bytes that are left before it is used, so a file that
lies is a CorruptModel that names the lie, in the time and memory that its real size allows.
"""

import mmap
import struct
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from farthing.errors import CorruptModel, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import Format, formats
from farthing.kernels.plan import QTensor

__all__ = ["DEFAULT_ALIGNMENT", "GGUFFile", "map_file", "read_gguf", "read_gguf_values"]

_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "<u1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_ITEMS = 1 << 24  # of an array in the metadata; the largest vocabularies are a fiftieth of it
_MAX_DEPTH = 4  # of arrays in arrays
DEFAULT_ALIGNMENT = 32
_GGML_NAMES = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
    22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_FORMAT_OF_TYPE: dict[int, Format] = {f.ggml_type: f for f in formats().values() if f.ggml_type is not None}


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file holds. `tensors` are read-only views of the mapped file; arrays in `metadata` are lists."""

    path: Path
    version: int
    metadata: dict[str, Any] = field(repr=False)
    raw_values: dict[str, memoryview] = field(repr=False)  # type and value of each key, as they lie in the file
    tensors: dict[str, QTensor] = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)  # innermost (columns) last, as NumPy writes them


def map_file(path: Path) -> mmap.mmap:
    """The file, mapped read-only. Raises ModelNotFound where it cannot be opened, CorruptModel where it is empty."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise CorruptModel(f"{path}: the file is empty") from None
    except OSError as error:
        raise ModelNotFound(f"{path}: cannot be read ({error.strerror or error})") from error


def read_gguf(path: str | Path) -> GGUFFile:
    """Read the header of a GGUF file and map its tensors.

    Raises ModelNotFound (no such file), CorruptModel (anything in the file that cannot be true, by name) and
    UnsupportedModel (big-endian, another version, a tensor type that is not among farthing's formats).
    """
    path = Path(path)
    reader = _Reader(path, map_file(path))
    version = reader.version()
    num_tensors, num_keys = reader.count("tensor count", 24), reader.count("key count", 13)
    metadata, raw_values = _values(reader, num_keys)
    infos = _tensor_infos(reader, num_tensors)
    tensors = _map_tensors(reader, infos, _alignment(reader, metadata))
    return GGUFFile(path, version, metadata, raw_values, tensors, {name: shape for name, shape, _, _ in infos})


def read_gguf_values(path: Path, raw: bytes) -> tuple[dict[str, Any], dict[str, memoryview]]:
    """Metadata and raw values, as GGUFFile has them, of a key-value section that lies elsewhere: key count u64 | keys.

    Raises CorruptModel, which names `path`.
    """
    reader = _Reader(path, raw)
    found = _values(reader, reader.count("key count", 13))
    if reader.pos != reader.size:
        raise reader.corrupt(f"{reader.size - reader.pos} bytes follow the last key of the GGUF metadata")
    return found


def _values(reader: "_Reader", num_keys: int) -> tuple[dict[str, Any], dict[str, memoryview]]:
    metadata: dict[str, Any] = {}
    raw_values: dict[str, memoryview] = {}
    for _ in range(num_keys):
        key = reader.string("a key of the metadata")
        if key in metadata:
            raise reader.corrupt(f"key {key!r} appears twice in the metadata")
        start = reader.pos
        metadata[key] = reader.value(key, reader.u32(f"the type of key {key!r}"))
        raw_values[key] = memoryview(reader.data)[start : reader.pos]
    return metadata, raw_values


class _Reader:
    """A position in the mapped file, and reads that check what is left before they move it."""

    def __init__(self, path: Path, data: mmap.mmap | bytes) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.pos = 0

    def corrupt(self, what: str) -> CorruptModel:
        return CorruptModel(f"{self.path}: {what}")

    def left(self, needed: int, what: str) -> None:
        if needed > self.size - self.pos:
            have = f"the file has {self.size - self.pos} more"
            raise self.corrupt(f"truncated or corrupt: {what} needs {needed} bytes at {self.pos}, {have}")

    def version(self) -> int:
        self.left(24, "the header")
        if self.data[:4] != b"GGUF":
            raise self.corrupt(f"not a GGUF file: it starts with {self.data[:4]!r}, not b'GGUF'")
        self.pos = 4
        version = self.u32("the version")
        if version not in (2, 3):
            if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
                raise UnsupportedModel(f"{self.path}: a big-endian GGUF file; supported: little-endian")
            raise UnsupportedModel(f"{self.path}: GGUF version {version}; supported: 2 and 3")
        return version

    def u32(self, what: str) -> int:
        self.left(4, what)
        self.pos += 4
        return int.from_bytes(self.data[self.pos - 4 : self.pos], "little")

    def u64(self, what: str) -> int:
        self.left(8, what)
        self.pos += 8
        return int.from_bytes(self.data[self.pos - 8 : self.pos], "little")

    def count(self, what: str, least_bytes: int) -> int:
        """A count of things of which each takes at least `least_bytes`."""
        n = self.u64(what)
        if n * least_bytes > self.size - self.pos:
            raise self.corrupt(f"the {what} is {n}, more than the file's {self.size} bytes can hold")
        return n

    def string(self, what: str) -> str:
        length = self.u64(f"the length of {what}")
        self.left(length, what)
        self.pos += length
        return self.text(self.data[self.pos - length : self.pos], what)

    def text(self, raw: bytes, what: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self.corrupt(f"{what} is not UTF-8: {raw[:40]!r}") from None

    def value(self, key: str, kind: int, depth: int = 0) -> Any:
        """The value of a key; an array is a list."""
        if kind == _STRING:
            return self.string(f"the value of key {key!r}")
        if kind != _ARRAY:
            return self.numbers(key, kind, 1)[0]
        if depth == _MAX_DEPTH:
            raise self.corrupt(f"key {key!r} has arrays more than {_MAX_DEPTH} deep")
        items = self.u32(f"the item type of key {key!r}")
        n = self.count(f"item count of key {key!r}", {_STRING: 8, _ARRAY: 12}.get(items, 1))
        if n > _MAX_ITEMS:
            raise self.corrupt(f"key {key!r} has {n} items; at most {_MAX_ITEMS} are believed")
        if items == _STRING:
            return self.strings(key, n)
        if items == _ARRAY:
            return [self.value(key, _ARRAY, depth + 1) for _ in range(n)]
        return self.numbers(key, items, n)

    def numbers(self, key: str, kind: int, n: int) -> list[Any]:
        if kind not in _SCALARS:
            raise self.corrupt(f"key {key!r} has the unknown value type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        self.left(n * dtype.itemsize, f"the value of key {key!r}")
        values = np.frombuffer(self.data, dtype, n, self.pos)
        self.pos += values.nbytes
        if kind == _BOOL:
            if (values > 1).any():
                raise self.corrupt(f"key {key!r} has a truth value of {values.max()}; allowed: 0 and 1")
            values = values.astype(bool)
        return list(values.tolist())

    def strings(self, key: str, n: int) -> list[str]:
        """n strings. Vocabularies have 10^5: the loop only cuts, and one call decodes them all."""
        data, size, pos, unpack = self.data, self.size, self.pos, struct.Struct("<Q").unpack_from
        raw: list[bytes] = []
        for i in range(n):
            start = pos + 8
            if start > size or (pos := start + unpack(data, start - 8)[0]) > size:
                raise self.corrupt(f"truncated or corrupt: item {i} of key {key!r} ends beyond the file")
            raw.append(data[start:pos])
        self.pos = pos
        texts = self.text(b"\0".join(raw), f"an item of key {key!r}").split("\0") if n else []
        return texts if len(texts) == n else [item.decode() for item in raw]


_Info = tuple[str, tuple[int, ...], int, int]  # name, shape (columns last), ggml type, offset


def _tensor_infos(reader: _Reader, num_tensors: int) -> list[_Info]:
    infos: dict[str, _Info] = {}
    for _ in range(num_tensors):
        name = reader.string("the name of a tensor")
        if name in infos:
            raise reader.corrupt(f"tensor {name!r} appears twice")
        num_dims = reader.u32(f"the number of dimensions of tensor {name!r}")
        if not 1 <= num_dims <= 4:
            raise reader.corrupt(f"tensor {name!r} has {num_dims} dimensions; allowed: 1 to 4")
        shape = tuple(reader.u64(f"dimension {i} of tensor {name!r}") for i in range(num_dims))[::-1]
        ggml_type = reader.u32(f"the type of tensor {name!r}")
        infos[name] = (name, shape, ggml_type, reader.u64(f"the offset of tensor {name!r}"))
    return list(infos.values())


def _alignment(reader: _Reader, metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or value < 1 or value & (value - 1):
        raise reader.corrupt(f"general.alignment is {value!r}; allowed: a power of two")
    return value


def _map_tensors(reader: _Reader, infos: list[_Info], alignment: int) -> dict[str, QTensor]:
    start = -(-reader.pos // alignment) * alignment
    tensors: dict[str, QTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, shape, ggml_type, offset in infos:
        if ggml_type not in _FORMAT_OF_TYPE:
            kind = _GGML_NAMES.get(ggml_type, f"number {ggml_type}")
            allowed = ", ".join(f.name.upper() for f in _FORMAT_OF_TYPE.values())
            raise UnsupportedModel(f"{reader.path}: tensor {name!r} has type {kind}; supported: {allowed}")
        if offset % alignment:
            raise reader.corrupt(f"tensor {name!r} starts at {offset}, not a multiple of the alignment {alignment}")
        tensor = _map_tensor(reader, name, shape, _FORMAT_OF_TYPE[ggml_type], start + offset)
        tensors[name] = tensor
        spans.append((offset, offset + tensor.data.nbytes, name))
    spans.sort()
    for (_, end, first), (begin, _, second) in pairwise(spans):
        if begin < end:
            raise reader.corrupt(f"the data of tensors {first!r} and {second!r} overlap")
    return tensors


def _map_tensor(reader: _Reader, name: str, shape: tuple[int, ...], f: Format, start: int) -> QTensor:
    if min(shape) < 1:
        raise reader.corrupt(f"tensor {name!r} has the shape {list(shape)}; every dimension must be 1 or more")
    *outer, cols = shape
    if cols % f.block_size:
        raise reader.corrupt(f"tensor {name!r} has {cols} columns, not whole blocks of {f.block_size} ({f.name})")
    rows = 1
    for dim in outer:
        rows *= dim
    num_bytes = rows * (cols // f.block_size) * f.block_bytes
    if start + num_bytes > reader.size:
        end = start + num_bytes
        raise reader.corrupt(f"truncated or corrupt: tensor {name!r} ends at byte {end}, the file at {reader.size}")
    data: npt.NDArray[np.uint8] = np.frombuffer(reader.data, np.uint8, num_bytes, start)  # [rows * row_bytes]
    return QTensor(f.name, rows, cols, data)

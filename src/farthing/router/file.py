"""One file of named arrays and a JSON document, in the safetensors format, every length checked on the way back.

    header length u64 | header: JSON {name: {dtype, shape, data_offsets}, __metadata__: {KEY: document}} | data

Nothing in it is code. Written beside and renamed, so a reader never meets half a file.
"""

import json
import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound, UnsupportedModel

__all__ = ["Contents", "read", "write"]

KEY = "farthing_router"
VERSION = 1
MAX_HEADER_BYTES = 16_000_000
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I32": np.dtype("<i4")}


class Contents:
    """What a router's file holds. Every access says what is wrong with the file in one line, never more."""

    def __init__(self, path: Path, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self._path = path
        self._document = document
        self._arrays = arrays

    def value(self, name: str, kind: type | tuple[type, ...]) -> Any:
        found = self._document.get(name)
        is_bool_for_number = isinstance(found, bool) and kind is not bool
        if name not in self._document or not isinstance(found, kind) or is_bool_for_number:
            raise self.corrupt(f"{name} is {str(found)[:40]!r}")
        return found

    def has(self, name: str) -> bool:
        return name in self._arrays

    def array(self, name: str, shape: tuple[int | None, ...], is_integer: bool = False) -> NDArray[Any]:
        """Of that shape, None where any length will do; finite. Numbers come back as float64 or int64."""
        if name not in self._arrays:
            raise self.corrupt(f"{name} is missing")
        found = self._arrays[name]
        is_shaped = len(found.shape) == len(shape) and all(
            want in (None, have) for want, have in zip(shape, found.shape, strict=True)
        )
        if not is_shaped or (found.dtype.kind == "i") != is_integer:
            wanted = " x ".join("any" if length is None else str(length) for length in shape)
            raise self.corrupt(f"{name} is {found.dtype} of shape {found.shape}, not {wanted}")
        if not np.isfinite(found).all():
            raise self.corrupt(f"{name} holds a number that is not finite")
        return found.astype(np.int64 if is_integer else np.float64)

    def corrupt(self, what: str) -> CorruptModel:
        return CorruptModel(f"{self._path}: corrupt: {what}")


def write(path: Path, document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """`document` must be JSON without infinities. Raises InvalidRequest where the file cannot be written."""
    header: dict[str, Any] = {"__metadata__": {KEY: json.dumps({"version": VERSION, **document}, allow_nan=False)}}
    pieces, offset = [], 0
    for name, values in arrays.items():
        dtype = next(name for name, dtype in _DTYPES.items() if dtype == values.dtype)
        data = np.ascontiguousarray(values, _DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(data)]}
        pieces.append(data)
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        beside.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *pieces]))
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InvalidRequest(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> Contents:
    """Raises ModelNotFound (no such file), UnsupportedModel (foreign, or of a newer version), CorruptModel (a lie)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelNotFound(f"{path}: cannot be read: {error.strerror}") from None
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CorruptModel(f"{path}: no router file, or truncated: {len(data)} bytes with a header of {length}")
    header = _object(data[8 : 8 + length], f"{path}: the header")
    metadata = header.pop("__metadata__", None)
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UnsupportedModel(
            f"{path}: a safetensors file, but no router of farthing's; `farthing route train` makes one"
        )
    document = _object(text.encode(), f"{path}: the document")
    version = document.get("version")
    if version != VERSION or isinstance(version, bool):
        raise UnsupportedModel(
            f"{path}: version {str(version)[:20]}; this farthing reads version {VERSION}: train it again"
        )
    return Contents(path, document, _arrays(path, header, data[8 + length :]))


def _arrays(path: Path, header: Mapping[str, Any], data: bytes) -> dict[str, NDArray[Any]]:
    arrays, ends = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(f"{path}: corrupt: {str(name)[:60]!r}", entry)
        if end > len(data):
            raise CorruptModel(f"{path}: truncated: {str(name)[:60]!r} ends at byte {end}, the data at {len(data)}")
        arrays[name] = np.frombuffer(data[begin:end], dtype).reshape(shape)
        ends.append((begin, end))
    position = 0
    for begin, end in sorted(ends):
        if begin != position:
            raise CorruptModel(f"{path}: corrupt: the arrays overlap, or leave bytes between them")
        position = end
    if position != len(data):
        raise CorruptModel(f"{path}: corrupt: {len(data) - position} bytes after the last array")
    return arrays


def _entry(what: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CorruptModel(f"{what} has no dtype, shape and data_offsets")
    dtype, shape, offsets = _DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None:
        raise CorruptModel(f"{what} has dtype {str(entry['dtype'])[:20]}; a router has {', '.join(_DTYPES)}")
    if not _are_lengths(shape) or not _are_lengths(offsets) or len(offsets) != 2:
        raise CorruptModel(f"{what} has a shape or offsets that are not lengths")
    if offsets[1] - offsets[0] != prod(shape) * dtype.itemsize:
        raise CorruptModel(f"{what} has {offsets[1] - offsets[0]} bytes, its shape {prod(shape) * dtype.itemsize}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_lengths(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 for value in values
    )


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptModel(f"{what} is not JSON: truncated, or no router file") from None
    if not isinstance(found, dict):
        raise CorruptModel(f"{what} is not a JSON object")
    return found

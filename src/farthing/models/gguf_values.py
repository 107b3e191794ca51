"""Values of a GGUF's metadata as they lie in the file: a type, then the value (models/gguf.py reads them)."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["gguf_value", "raw_gguf_values"]

_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def gguf_value(value: object) -> bytes:
    """A truth value, a whole number (u32), a number (f32), a text, or a list of one kind of these (whole numbers: i32),
    with its type before it."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    assert isinstance(value, list), value
    return struct.pack("<I", _ARRAY) + _items(value)


def raw_gguf_values(values: Mapping[str, Any]) -> dict[str, memoryview]:
    """All of them, as `GGUFFile.raw_values` has them."""
    return {key: memoryview(gguf_value(value)) for key, value in values.items()}


def _items(values: Sequence[Any]) -> bytes:
    kind = type(values[0]) if values else str
    assert all(type(value) is kind for value in values)
    if kind is str:
        return b"".join([struct.pack("<IQ", _STRING, len(values)), *map(_text, values)])
    code, letter = {bool: (_BOOL, "?"), int: (_I32, "i"), float: (_F32, "f")}[kind]
    return struct.pack(f"<IQ{len(values)}{letter}", code, len(values), *values)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw

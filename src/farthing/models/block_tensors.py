"""Tensors in blocks of bits within a safetensors file, whose own dtypes end at bytes.

Each is a U8 tensor [bytes]; the header's metadata says what it is, under the key `farthing.blocks`, as JSON:

    {"version": 1, "tensors": {name: [format, rows, columns]}}

The blocks of a format lie as `kernels/formats.py` has them. A file that was made of a GGUF carries that one's metadata,
config and tokenizer with it, under `farthing.gguf`: its key-value section in base64.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.kernels.formats import format_of, formats, row_bytes

__all__ = ["BLOCKS_KEY", "GGUF_KEY", "BlockTensor", "read_blocks", "section_of_metadata", "write_blocks"]

BLOCKS_KEY, GGUF_KEY = "farthing.blocks", "farthing.gguf"
_VERSION = 1
_MOST = 1 << 31  # rows or columns that are believed


@dataclass(frozen=True)
class BlockTensor:
    format: str
    rows: int
    cols: int

    @property
    def num_bytes(self) -> int:
        return self.rows * row_bytes(self.format, self.cols)


def write_blocks(tensors: Mapping[str, BlockTensor]) -> str:
    """The text that `read_blocks` reads."""
    listed = {name: [t.format, t.rows, t.cols] for name, t in tensors.items()}
    return json.dumps({"version": _VERSION, "tensors": listed}, separators=(",", ":"))


def read_blocks(path: Path, text: str | None) -> dict[str, BlockTensor]:
    """What the text describes; nothing where there is none. Raises CorruptModel, UnsupportedModel (another version)."""
    if text is None:
        return {}
    what = f"{path}: {BLOCKS_KEY} in its metadata"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{what} is not JSON ({error})") from None
    version = document.get("version") if isinstance(document, dict) else None
    is_known = type(version) is int and version == _VERSION
    if type(version) is int and not is_known:
        raise UnsupportedModel(f"{what} has version {version}; supported: {_VERSION}; a newer farthing may read it")
    tensors = document.get("tensors") if is_known else None
    if not isinstance(tensors, dict):
        raise CorruptModel(f"{what} must be an object with version {_VERSION} and tensors")
    return {name: _block_tensor(f"{what}: tensor {name!r}", entry) for name, entry in tensors.items()}


def _block_tensor(what: str, entry: object) -> BlockTensor:
    match entry:
        case [str(format), int(rows), int(cols)] if _is_count(rows) and _is_count(cols):
            if format not in formats():
                allowed = ", ".join(formats())
                raise UnsupportedModel(f"{what} has the format {format!r}; supported: {allowed}")
            if cols % format_of(format).block_size == 0:
                return BlockTensor(format, rows, cols)
    raise CorruptModel(f"{what} is described by {entry!r}; a format, rows and columns of whole blocks are needed")


def _is_count(value: int) -> bool:
    return type(value) is int and 1 <= value < _MOST  # a bool is an int too


def section_of_metadata(path: Path, metadata: Mapping[str, str]) -> bytes | None:
    """The GGUF key-value section that the file carries, or None. Raises CorruptModel where it is not base64."""
    text = metadata.get(GGUF_KEY)
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptModel(f"{path}: {GGUF_KEY} in its metadata is not base64 ({error})") from None

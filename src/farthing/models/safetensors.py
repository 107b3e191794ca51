"""A memory-mapped reader of safetensors, one file or many (github.com/huggingface/safetensors).

    header length u64 | header: JSON {name: {dtype, shape, data_offsets: [begin, end]}} | tensor data

As with GGUF nothing is believed before it is checked. BF16, which NumPy cannot express, stays a view of the file.
Tensors in blocks of bits are U8; what they are stands in the header's metadata (see block_tensors.py).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from farthing.errors import CorruptModel, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import row_bytes
from farthing.kernels.plan import QTensor
from farthing.models.block_tensors import BLOCKS_KEY, BlockTensor, read_blocks
from farthing.models.gguf import map_file

__all__ = ["SafetensorsFile", "read_safetensors", "read_safetensors_file"]

_INDEX = "model.safetensors.index.json"
_FORMATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library


@dataclass(frozen=True)
class SafetensorsFile:
    """What one file holds: read-only views by name, and its header's metadata."""

    tensors: dict[str, QTensor] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)


def read_safetensors(path: str | Path) -> dict[str, QTensor]:
    """The tensors of a .safetensors file, of an index of shards, or of the folder that holds either, by name.

    Tensors are read-only views; a vector has rows = 1, dimensions before the last are multiplied into rows. Raises
    ModelNotFound (no such file or shard), CorruptModel (what cannot be true, by name), UnsupportedModel (a dtype).
    """
    path = Path(path)
    if path.is_dir():
        single = path / "model.safetensors"
        path = single if single.exists() else path / _INDEX
        if not path.exists():
            raise ModelNotFound(f"{path.parent}: neither model.safetensors nor {_INDEX} is in this folder")
    return _read_shards(path) if path.suffix == ".json" else read_safetensors_file(path).tensors


def _read_shards(index: Path) -> dict[str, QTensor]:
    names = _object(map_file(index)[:], str(index)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CorruptModel(f"{index}: weight_map must map names of tensors to files")
    shards: dict[str, dict[str, QTensor]] = {}
    for file in names.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise CorruptModel(f"{index}: {file!r} is not the name of a file beside the index")
        if file not in shards:
            shards[file] = read_safetensors_file(index.parent / file).tensors
    for name, file in names.items():
        if name not in shards[file]:
            raise CorruptModel(f"{index}: tensor {name!r} is not in {file}, where the index says it is")
    return {name: shards[file][name] for name, file in names.items()}


def read_safetensors_file(path: Path) -> SafetensorsFile:
    """One .safetensors file, its metadata too. Raises as `read_safetensors` does."""
    data = map_file(path)
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise CorruptModel(f"{path}: truncated or corrupt: a header of {length} bytes in a file of {len(data)}")
    header = _object(data[8 : 8 + length], f"{path}: the header")
    metadata = _metadata(path, header.pop("__metadata__", {}))
    blocks = read_blocks(path, metadata.get(BLOCKS_KEY))
    if missing := blocks.keys() - header.keys():
        raise CorruptModel(f"{path}: its metadata describes the tensor {min(missing)!r}, which is not in the file")
    start = 8 + length
    tensors: dict[str, QTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        what = f"{path}: tensor {name!r}"
        format, rows, cols, begin, end = _entry(what, entry, blocks.get(name))
        if start + end > len(data):
            raise CorruptModel(f"{what} ends at byte {start + end}, the file at {len(data)}: truncated or corrupt")
        tensors[name] = QTensor(format, rows, cols, np.frombuffer(data, np.uint8, end - begin, start + begin))
        spans.append((begin, end, name))
    spans.sort()
    for (_, first_end, first), (second_begin, _, second) in pairwise(spans):
        if second_begin < first_end:
            raise CorruptModel(f"{path}: the data of tensors {first!r} and {second!r} overlap")
    return SafetensorsFile(tensors, metadata)


def _metadata(path: Path, raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise CorruptModel(f"{path}: __metadata__ must map names to texts")
    return raw


def _entry(what: str, entry: object, block: BlockTensor | None) -> tuple[str, int, int, int, int]:
    """Format, rows, columns, begin and end of one entry of the header, checked against each other and against the
    metadata's description, where that has one."""
    if not isinstance(entry, dict):
        raise CorruptModel(f"{what} is described by {entry!r}, not by dtype, shape and data_offsets")
    dtype, shape, offsets = str(entry.get("dtype")), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if dtype not in _FORMATS and (dtype != "U8" or block is None):
        raise UnsupportedModel(f"{what} has dtype {dtype}; supported: {', '.join(_FORMATS)}")
    if shape is None or 0 in shape:
        raise CorruptModel(f"{what} has the shape {entry.get('shape')}; allowed: at most 8 dimensions of 1 or more")
    if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CorruptModel(f"{what} has data_offsets {entry.get('data_offsets')}; two ascending numbers are needed")
    begin, end = offsets
    if block is not None:
        if dtype != "U8" or shape != [end - begin] or end - begin != block.num_bytes:
            said = f"{block.format} [{block.rows}, {block.cols}], which is {block.num_bytes} bytes of U8"
            raise CorruptModel(f"{what} is {dtype} {shape} of {end - begin} bytes; its description says {said}")
        return block.format, block.rows, block.cols, begin, end
    rows, cols = prod(shape[:-1]), shape[-1] if shape else 1
    if end - begin != rows * row_bytes(_FORMATS[dtype], cols):
        raise CorruptModel(f"{what} of shape {shape} in {dtype} cannot lie in {end - begin} bytes")
    return _FORMATS[dtype], rows, cols, begin, end


def _counts(values: Any) -> list[int] | None:
    """`values` where it is a short list of numbers from 0 to 2**63 - 1."""
    is_good = isinstance(values, list) and len(values) <= 8 and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
    return values if is_good else None


def _object(raw: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `raw`; a name that stands twice is an error, for one of the two would be lost."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CorruptModel(f"{what} names something twice")
        return result

    try:
        value = json.loads(raw, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{what} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise CorruptModel(f"{what} is not a JSON object")
    return value

"""Writes safetensors files: floats in their own dtypes, blocks of bits as U8 (block_tensors.py)."""

import base64
import json
import struct
from collections.abc import Sequence

from farthing.errors import InvalidRequest
from farthing.models.block_tensors import BLOCKS_KEY, GGUF_KEY, BlockTensor, write_blocks
from farthing.models.gguf_write import TensorInfo
from farthing.models.output_file import Layout

__all__ = ["safetensors_layout"]

_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_ALIGNMENT = 64
_MOST_HEADER_BYTES = 100_000_000  # the limit of the format's own library


def safetensors_layout(tensors: Sequence[TensorInfo], gguf_section: bytes | None = None) -> Layout:
    """Where everything lies; floats first, for the format knows no padding and they are to be aligned.

    gguf_section: metadata of a GGUF that the file carries. A tensor of several parts becomes so many tensors, named as
    the parts. Raises InvalidRequest where the header outgrows the format.
    """
    ordered = sorted(tensors, key=lambda t: list(_DTYPES).index(t.format) if t.format in _DTYPES else len(_DTYPES))
    header: dict[str, object] = {}
    places: dict[str, int] = {}
    blocks: dict[str, BlockTensor] = {}
    at = 0
    for t in ordered:
        end = at + t.num_bytes
        if t.format in _DTYPES:
            header[t.name] = {"dtype": _DTYPES[t.format], "shape": list(t.shape), "data_offsets": [at, end]}
        else:
            blocks[t.name] = BlockTensor(t.format, t.num_weights // t.shape[-1], t.shape[-1])
            header[t.name] = {"dtype": "U8", "shape": [t.num_bytes], "data_offsets": [at, end]}
        [part] = t.parts
        places[part], at = at, end
    metadata = {"format": "pt", BLOCKS_KEY: write_blocks(blocks)}
    if gguf_section is not None:
        metadata[GGUF_KEY] = base64.b64encode(gguf_section).decode()
    raw = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + 8) % _ALIGNMENT)
    if len(raw) > _MOST_HEADER_BYTES:
        raise InvalidRequest(
            f"the header takes {len(raw)} bytes; safetensors allows {_MOST_HEADER_BYTES}: write a GGUF"
        )
    head = struct.pack("<Q", len(raw)) + raw
    return Layout(head, {part: len(head) + place for part, place in places.items()}, len(head) + at)

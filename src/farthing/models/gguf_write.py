"""Writes GGUF files (version 3): metadata as encoded values, tensors in any of ggml's types."""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from farthing.errors import InvalidRequest
from farthing.kernels.formats import format_of, formats, row_bytes
from farthing.kernels.plan import QTensor
from farthing.models.gguf import DEFAULT_ALIGNMENT
from farthing.models.output_file import Layout, ModelSink, new_file

__all__ = ["TensorInfo", "TensorToWrite", "gguf_layout", "gguf_values", "gguf_values_section", "write_gguf"]

_VERSION = 3
_U32 = 4
_QUANTIZATION_VERSION = 2  # of ggml's block layouts
# llama.cpp's general.file_type (enum llama_ftype): which format most matrices have.
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
    "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32, "tq2_0": 37,
}  # fmt: skip
_GUESSED = 1024  # llama.cpp's word for none of these


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a file: its name there, its shape (columns last) and format, and by what names its parts are known:
    one, or one for each expert, whose bytes lie one after the other."""

    name: str
    shape: tuple[int, ...]
    format: str
    parts: tuple[str, ...]

    @property
    def num_weights(self) -> int:
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_weights // self.shape[-1] * row_bytes(self.format, self.shape[-1])


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to be written: described now, made (`make()`, in this format and shape) when its turn comes."""

    name: str
    shape: tuple[int, ...]  # columns last
    format: str
    make: Callable[[], QTensor]


def gguf_values(values: Mapping[str, bytes | memoryview], format: str) -> dict[str, bytes | memoryview]:
    """`values` with general.file_type of the format that most weights have and general.quantization_version."""
    kind = _FILE_TYPES.get(format, _GUESSED)
    return {
        **values,
        "general.file_type": struct.pack("<II", _U32, kind),
        "general.quantization_version": struct.pack("<II", _U32, _QUANTIZATION_VERSION),
    }


def gguf_values_section(values: Mapping[str, bytes | memoryview]) -> bytes:
    """Their count and all of them, as they stand in a file between the header and the tensors' infos."""
    pairs = [piece for key, value in values.items() for piece in (_text(key), value)]
    return b"".join([struct.pack("<Q", len(values)), *pairs])


def gguf_layout(
    values: Mapping[str, bytes | memoryview], tensors: Sequence[TensorInfo], alignment: int = DEFAULT_ALIGNMENT
) -> Layout:
    """Where everything lies. Raises InvalidRequest for a format that is none of ggml's."""
    pieces = [b"GGUF", struct.pack("<IQ", _VERSION, len(tensors)), gguf_values_section(values)]
    offset, offsets = 0, {}
    for t in tensors:
        kind = format_of(t.format).ggml_type
        if kind is None:
            allowed = ", ".join(f.name for f in formats().values() if f.ggml_type is not None)
            raise InvalidRequest(
                f"a GGUF file has no type for {t.format}; its types: {allowed}, or write a .safetensors"
            )
        dims = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *reversed(t.shape))
        pieces += [_text(t.name), dims, struct.pack("<IQ", kind, offset)]
        for i, part in enumerate(t.parts):
            offsets[part] = offset + i * (t.num_bytes // len(t.parts))
        offset += -(-t.num_bytes // alignment) * alignment
    head = b"".join(pieces)
    head += bytes(-len(head) % alignment)
    return Layout(head, {part: len(head) + at for part, at in offsets.items()}, len(head) + offset)


def write_gguf(
    output: Path,
    values: Mapping[str, bytes | memoryview],
    tensors: Sequence[TensorToWrite],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    is_overwrite: bool = False,
    on_tensor: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write a GGUF of tensors that are made and written in turn; after each on_tensor(done, total) is called.

    The file appears under its name only when it is whole; where anything fails nothing is left behind. Raises
    InvalidRequest as `new_file` and `gguf_layout` do.
    """
    layout = gguf_layout(values, [TensorInfo(t.name, t.shape, t.format, (t.name,)) for t in tensors], alignment)
    with new_file(output, layout.num_bytes, is_overwrite=is_overwrite) as file:
        sink = ModelSink(file, layout)
        for i, tensor in enumerate(tensors):
            sink.put(tensor.name, tensor.make())
            on_tensor(i + 1, len(tensors))
        sink.check()


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw

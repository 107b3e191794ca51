"""Writes GGUF files: re-blocks a GGUF's tensors to another format and leaves the rest of it as it is, byte for byte."""

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from farthing.errors import InvalidRequest, UnsupportedModel
from farthing.kernels.formats import format_of, row_bytes
from farthing.kernels.plan import QTensor
from farthing.models.gguf import DEFAULT_ALIGNMENT, GGUFFile
from farthing.quant import quantizable, requantize, target_format

__all__ = ["Reblocked", "TensorToWrite", "reblock_gguf", "write_gguf"]

_VERSION = 3
_U32 = 4
_QUANTIZATION_VERSION = 2  # of ggml's block layouts
# llama.cpp's general.file_type (enum llama_ftype): which format most matrices have.
_FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
    "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32, "tq2_0": 37,
}  # fmt: skip


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to be written: described now, made (`make()`, in this format and shape) when its turn comes."""

    name: str
    shape: tuple[int, ...]  # columns last
    format: str
    make: Callable[[], QTensor]

    @property
    def num_weights(self) -> int:
        rows_cols = 1
        for dim in self.shape:
            rows_cols *= dim
        return rows_cols

    @property
    def num_bytes(self) -> int:
        return self.num_weights // self.shape[-1] * row_bytes(self.format, self.shape[-1])


@dataclass(frozen=True)
class Reblocked:
    """What became of a file. `num_kept` counts matrices whose columns are not whole blocks of the format."""

    num_weights: int
    num_tensors: int
    num_kept: int
    tensor_bytes_before: int
    tensor_bytes_after: int


def reblock_gguf(
    source: GGUFFile,
    output: Path,
    format: str,
    *,
    is_overwrite: bool = False,
    on_tensor: Callable[[int, int], None] = lambda _done, _total: None,
) -> Reblocked:
    """Write `source` to `output` with its matrices in `format` (see `quant.target_format`), one tensor in memory.

    All metadata is copied as it lies; general.file_type and general.quantization_version are set. After each tensor
    on_tensor(done, total) is called. Raises InvalidRequest (format, output exists), UnsupportedModel (part of a model).
    """
    allowed = [name for name in quantizable() if name in _FILE_TYPES]
    if format not in allowed:
        raise InvalidRequest(f"format is {format!r}; allowed in a GGUF file: {', '.join(allowed)}")
    if source.metadata.get("split.count", 1) not in (0, 1):
        raise UnsupportedModel(f"{source.path}: one part of a model in several files; join them with llama-gguf-split")
    values: dict[str, bytes | memoryview] = dict(source.raw_values)
    values["general.file_type"] = struct.pack("<II", _U32, _FILE_TYPES[format])
    values["general.quantization_version"] = struct.pack("<II", _U32, _QUANTIZATION_VERSION)
    tensors = [_reblocked(name, t, source.shapes[name], format) for name, t in source.tensors.items()]
    alignment = source.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    write_gguf(output, values, tensors, alignment=alignment, is_overwrite=is_overwrite, on_tensor=on_tensor)
    return Reblocked(
        num_weights=sum(t.num_weights for t in tensors),
        num_tensors=len(tensors),
        num_kept=sum(t.format != format and source.tensors[t.name].rows > 1 for t in tensors),
        tensor_bytes_before=sum(t.data.nbytes for t in source.tensors.values()),
        tensor_bytes_after=sum(t.num_bytes for t in tensors),
    )


def _reblocked(name: str, tensor: QTensor, shape: tuple[int, ...], format: str) -> TensorToWrite:
    target = tensor.format if name.endswith(".ffn_gate_inp.weight") else target_format(tensor, format)  # a router

    def make() -> QTensor:
        try:
            return requantize(tensor, target)
        except InvalidRequest as error:
            raise InvalidRequest(f"tensor {name!r}: {error}") from None

    return TensorToWrite(name, shape, target, make)


def write_gguf(
    output: Path,
    values: Mapping[str, bytes | memoryview],
    tensors: Sequence[TensorToWrite],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    is_overwrite: bool = False,
    on_tensor: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Write a GGUF (version 3): metadata as encoded values (type and value), tensors made and written in turn.

    The file appears under its name only when it is whole; where anything fails nothing is left behind. Raises
    InvalidRequest where `output` exists (unless is_overwrite) or its folder does not.
    """
    if output.is_dir() or (output.exists() and not is_overwrite):
        raise InvalidRequest(f"{output} exists; give another name, or --force to replace a file")
    if not output.parent.is_dir():
        raise InvalidRequest(f"{output}: the folder {output.parent} does not exist; create it first")
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(_header(values, tensors, alignment))
            _pad(file, alignment)
            for i, tensor in enumerate(tensors):
                file.write(_data(tensor))
                _pad(file, alignment)
                on_tensor(i + 1, len(tensors))
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    except BaseException:  # an interrupt too must leave nothing behind
        with suppress(FileNotFoundError):
            part.unlink()
        raise


def _header(values: Mapping[str, bytes | memoryview], tensors: Sequence[TensorToWrite], alignment: int) -> bytes:
    pieces: list[bytes | memoryview] = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(values))]
    for key, value in values.items():
        pieces += [_text(key), value]
    offset = 0
    for t in tensors:
        dims = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *reversed(t.shape))
        ggml_type = format_of(t.format).ggml_type
        assert ggml_type is not None, t
        pieces += [_text(t.name), dims, struct.pack("<IQ", ggml_type, offset)]
        offset += -(-t.num_bytes // alignment) * alignment
    return b"".join(pieces)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _data(tensor: TensorToWrite) -> memoryview:
    data = tensor.make().data
    assert data.nbytes == tensor.num_bytes, tensor
    return data.data


def _pad(file: BinaryIO, alignment: int) -> None:
    file.write(bytes(-file.tell() % alignment))

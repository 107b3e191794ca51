"""Weights to blocks: quantize float32 rows, re-block tensors from one format to another. Plain rounding to nearest."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, format_of, row_bytes
from farthing.kernels.plan import QTensor
from farthing.quant import pack_ggml
from farthing.quant.pack_k import K_SHAPES, round_k, round_tq2_0
from farthing.quant.pack_own import OWN_FORMATS, round_own

__all__ = ["quantizable", "quantize", "requantize", "target_format"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]  # [n] records of one format

_CHUNK = 1 << 18  # weights converted at a time: temporaries stay in cache and memory stays bounded


def quantizable() -> tuple[str, ...]:
    """Names of the formats that can be written."""
    return tuple(_PACK)


def target_format(tensor: QTensor, format: str) -> str:
    """The format a model's tensor takes when the model is re-blocked to `format`.

    Matrices (embedding and head too) take `format`, unless their columns are not whole blocks of it: those keep their
    own. Vectors (norms and biases; rows = 1) are float32: they are a thousandth of the bytes and multiply everything.
    """
    if tensor.rows == 1:
        return "f32"
    return tensor.format if tensor.cols % format_of(format).block_size else format


def quantize(array: F32, format: str) -> QTensor:
    """The matrix [rows, cols] (or vector [cols]) in `format`.

    Raises InvalidRequest where the format cannot be written, cols is not a whole number of its blocks, or a value is
    not finite or too large for its 16-bit scale.
    """
    pack = _pack(format)
    rows, cols = np.atleast_2d(array).shape
    data = np.empty(rows * row_bytes(format, cols), np.uint8)
    values = np.ascontiguousarray(array, np.float32).reshape(-1, format_of(format).block_size)
    _pack_into(data, values, format, pack)
    return QTensor(format, rows, cols, data)


def requantize(tensor: QTensor, format: str) -> QTensor:
    """`tensor` in another format, through float32, a few rows at a time; the same object where it has it already.

    Raises InvalidRequest as `quantize` does.
    """
    if tensor.format == format:
        return tensor
    pack = _pack(format)
    old_bytes, new_bytes = row_bytes(tensor.format, tensor.cols), row_bytes(format, tensor.cols)
    data = np.empty(tensor.rows * new_bytes, np.uint8)
    step = max(1, _CHUNK // tensor.cols)
    for first in range(0, tensor.rows, step):
        end = min(first + step, tensor.rows)
        piece = tensor.data[first * old_bytes : end * old_bytes]
        values = dequantize(piece, tensor.format, end - first, tensor.cols)
        blocks = values.reshape(-1, format_of(format).block_size)
        _pack_into(data[first * new_bytes : end * new_bytes], blocks, format, pack)
    return QTensor(format, tensor.rows, tensor.cols, data)


Pack = Callable[[F32, Blocks], None]  # values [n, block_size] -> blocks [n]

_PACK: Mapping[str, Pack] = MappingProxyType(
    {
        "f32": pack_ggml.plain,
        "f16": pack_ggml.plain,
        "bf16": pack_ggml.bf16,
        "q8_0": pack_ggml.q8_0,
        "q4_0": partial(pack_ggml.symmetric, zero=8),
        "q4_1": partial(pack_ggml.with_minimum, last=15),
        "q5_0": partial(pack_ggml.symmetric, zero=16),
        "q5_1": partial(pack_ggml.with_minimum, last=31),
        "iq4_nl": pack_ggml.iq4_nl,
        **{name: partial(round_k, name) for name in K_SHAPES},
        "tq2_0": round_tq2_0,
        **{name: partial(round_own, name) for name in OWN_FORMATS},
    }
)


def _pack(format: str) -> Pack:
    if format_of(format).name not in _PACK:
        raise InvalidRequest(f"weight format {format} can be read, not written; allowed: {', '.join(_PACK)}")
    return _PACK[format]


def _pack_into(data: U8, values: F32, format: str, pack: Pack) -> None:
    f = format_of(format)
    blocks = data.view(f.block)  # [n]
    step = _CHUNK // f.block_size
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for first in range(0, len(blocks), step):
            pack(values[first : first + step], blocks[first : first + step])
    for name in ("d", "m", "dmin", "x"):
        is_f16 = name in (f.block.names or ()) and f.block[name] == np.float16
        if is_f16 and not np.isfinite(blocks[name]).all():
            raise InvalidRequest(f"some weights are not finite, or too large for {format}; f32 and bf16 hold them")

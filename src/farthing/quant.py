"""Weights to blocks: quantize float32 rows, re-block tensors from one format to another.

Round to nearest, value by value, as ggml's reference quantizers do (quantize_row_*_ref in ggml-quants.c): the same
bytes come out (of iq4_nl: up to the rounding of a sum). k-quants can be read (`dequantize`) but not written: their
scales are the result of a search.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import IQ4_NL_VALUES, dequantize, format_of, row_bytes
from farthing.kernels.plan import QTensor

__all__ = ["QTensor", "dequantize", "quantizable", "quantize", "requantize", "target_format"]

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
    for name in ("d", "m", "x"):
        is_f16 = name in (f.block.names or ()) and f.block[name] == np.float16
        if is_f16 and not np.isfinite(blocks[name]).all():
            raise InvalidRequest(f"some weights are not finite, or too large for {format}; f32 and bf16 hold them")


def _plain(values: F32, blocks: Blocks) -> None:
    blocks["x"] = values[:, 0]


def _pack_bf16(values: F32, blocks: Blocks) -> None:
    """Round half to even on the upper 16 bits; a NaN stays one (and becomes quiet)."""
    bits = values.view(np.uint32)[:, 0]
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    is_nan = bits & 0x7FFFFFFF > 0x7F800000
    blocks["x"] = np.where(is_nan, bits >> 16 | 64, rounded)


def _inverse(d: F32) -> F32:
    """1 / d, and 0 where that is not finite: such a d is 0 in 16 bits, and the codes do not matter."""
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _pack_q8_0(values: F32, blocks: Blocks) -> None:
    d = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)  # [n, 1]
    scaled = values * _inverse(d)
    magnitude = np.abs(scaled)
    codes = np.floor(magnitude)
    codes += magnitude - codes >= 0.5  # half away from zero, which rint is not
    blocks["d"] = d[:, 0]
    blocks["qs"] = np.copysign(codes, scaled, out=codes)


def _store_codes(codes: U8, blocks: Blocks) -> None:
    """Codes [n, 32]: low four bits side by side in qs, a fifth (where the format has it) in qh."""
    low = codes & np.uint8(15)
    blocks["qs"] = low[:, :16] | low[:, 16:] << 4
    if "qh" in (blocks.dtype.names or ()):
        blocks["qh"] = np.packbits(codes >> 4, axis=1, bitorder="little")


def _signed_max(values: F32) -> F32:
    """The value of largest magnitude in each block [n, 1], the first of them where two are equal."""
    return np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)


def _pack_symmetric(values: F32, blocks: Blocks, zero: int) -> None:
    """Codes 0 .. 2 zero - 1 around `zero`; the value of largest magnitude is code 0 exactly."""
    d = _signed_max(values) / np.float32(-zero)  # [n, 1]
    scaled = values * _inverse(d)
    scaled += np.float32(zero + 0.5)
    blocks["d"] = d[:, 0]
    _store_codes(np.minimum(scaled, 2 * zero - 1, out=scaled).astype(np.uint8), blocks)


def _pack_with_minimum(values: F32, blocks: Blocks, last: int) -> None:
    """Codes 0 .. last from the block's minimum to its maximum."""
    low = values.min(axis=1, keepdims=True)  # [n, 1]
    d = (values.max(axis=1, keepdims=True) - low) / np.float32(last)
    scaled = values - low
    scaled *= _inverse(d)
    scaled += np.float32(0.5)
    blocks["d"], blocks["m"] = d[:, 0], low[:, 0]
    _store_codes(np.minimum(scaled, last, out=scaled).astype(np.uint8), blocks)


def _pack_iq4_nl(values: F32, blocks: Blocks) -> None:
    """Nearest of the sixteen fixed values, then the scale that minimises the error weighted by the squared weights."""
    midpoints = (IQ4_NL_VALUES[1:] + IQ4_NL_VALUES[:-1]) / 2
    inverse = _inverse(_signed_max(values) / IQ4_NL_VALUES[0])
    codes = np.searchsorted(midpoints, values * inverse, side="right").astype(np.uint8)
    steps = IQ4_NL_VALUES[codes]
    weighted = values * values * steps
    norm = np.einsum("ij,ij->i", weighted, steps)
    blocks["d"] = np.einsum("ij,ij->i", weighted, values) / np.where(norm > 0, norm, 1)
    _store_codes(codes, blocks)


_PACK: dict[str, Pack] = {
    "f32": _plain,
    "f16": _plain,
    "bf16": _pack_bf16,
    "q8_0": _pack_q8_0,
    "q4_0": lambda values, blocks: _pack_symmetric(values, blocks, 8),
    "q4_1": lambda values, blocks: _pack_with_minimum(values, blocks, 15),
    "q5_0": lambda values, blocks: _pack_symmetric(values, blocks, 16),
    "q5_1": lambda values, blocks: _pack_with_minimum(values, blocks, 31),
    "iq4_nl": _pack_iq4_nl,
}

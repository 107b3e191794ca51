"""Weight formats: how a row of numbers lies in bytes, and how to get the numbers back, in NumPy.

A format is a block of `block_size` weights that share a scale (and perhaps a minimum); a row is whole blocks, one after
the other. The layouts are ggml's, so that the bytes of a GGUF file are used as they lie. To add a format: one NumPy
dtype for its block, one `unpack`, one line in `_FORMATS`.

Every value is computed in float32 as ggml does, (d * scale) * code - (dmin * minimum), so results are bit-equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest

__all__ = ["IQ4_NL_VALUES", "Format", "dequantize", "format_of", "formats", "row_bytes"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]  # [n] records of one format
Unpack = Callable[[Blocks, F32], None]  # blocks [n] -> out [n, block_size]

CHUNK = 1 << 18  # weights unpacked at a time: temporaries stay in cache and memory stays bounded


@dataclass(frozen=True)
class Format:
    """A weight format: `block_size` weights lie in `block_bytes` bytes, laid out as the record `block`."""

    name: str
    ggml_type: int
    block_size: int
    block: np.dtype[np.void]
    unpack: Unpack

    @property
    def block_bytes(self) -> int:
        return self.block.itemsize

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size


def _record(*fields: tuple[str, str] | tuple[str, str, int]) -> np.dtype[np.void]:
    return np.dtype(list(fields))


def _f32(blocks: Blocks, out: F32) -> None:
    out[:, 0] = blocks["x"]


def _bf16(blocks: Blocks, out: F32) -> None:
    np.left_shift(blocks["x"], 16, out=out.view(np.uint32)[:, 0], dtype=np.uint32, casting="unsafe")


def _scale(blocks: Blocks, field: str) -> F32:
    return np.asarray(blocks[field], np.float32)[:, None]  # [n, 1]


def _nibbles(blocks: Blocks) -> U8:
    """Codes 0..15 [n, 32]: low nibbles are the first 16 weights, high nibbles the last 16."""
    qs: U8 = np.asarray(blocks["qs"])  # [n, 16]
    out = np.empty((len(qs), 32), np.uint8)
    np.bitwise_and(qs, 15, out=out[:, :16])
    np.right_shift(qs, 4, out=out[:, 16:])
    return out


def _five_bits(blocks: Blocks) -> U8:
    """Codes 0..31 [n, 32]: nibbles, with the fifth bit of weight i at bit i of qh."""
    codes = _nibbles(blocks)
    codes |= np.unpackbits(np.ascontiguousarray(blocks["qh"]), axis=1, bitorder="little") << np.uint8(4)
    return codes


def _symmetric(codes: npt.NDArray[np.uint8] | npt.NDArray[np.int8], zero: int, blocks: Blocks, out: F32) -> None:
    np.subtract(codes, np.float32(zero), out=out, dtype=np.float32)
    out *= _scale(blocks, "d")


def _with_minimum(codes: U8, blocks: Blocks, out: F32) -> None:
    np.multiply(codes, _scale(blocks, "d"), out=out)
    out += _scale(blocks, "m")


IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)  # ggml's kvalues_iq4nl


def _iq4_nl(blocks: Blocks, out: F32) -> None:
    np.multiply(IQ4_NL_VALUES[_nibbles(blocks)], _scale(blocks, "d"), out=out)


def _scales_and_minima(blocks: Blocks) -> tuple[F32, F32]:
    """Float scale and minimum [n, 8, 1] of the eight sub-blocks of q4_k and q5_k.

    Twelve bytes hold sixteen 6-bit numbers: bytes 0-3 scales 0-3 and bytes 4-7 minima 0-3 in their low six bits; bytes
    8-11 the low nibbles of scales 4-7 (low) and minima 4-7 (high), whose top two bits are the top bits of bytes 0-7.
    """
    a, b, c = np.split(np.asarray(blocks["scales"]), 3, axis=1)  # [n, 4] each
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return (_scale(blocks, "d") * scales)[:, :, None], (_scale(blocks, "dmin") * minima)[:, :, None]


def _q4_k(blocks: Blocks, out: F32) -> None:
    qs = np.asarray(blocks["qs"]).reshape(-1, 4, 1, 32)  # sub-blocks 2j and 2j+1 are the nibbles of bytes 32j..32j+31
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)
    _k_blocks(codes, blocks, out)


def _q5_k(blocks: Blocks, out: F32) -> None:
    qs = np.asarray(blocks["qs"]).reshape(-1, 4, 1, 32)
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)
    high = np.asarray(blocks["qh"])[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]  # sub-block s: bit s of qh[i]
    _k_blocks(codes | (high & 1) << 4, blocks, out)


def _k_blocks(codes: U8, blocks: Blocks, out: F32) -> None:
    scales, minima = _scales_and_minima(blocks)
    values = out.reshape(-1, 8, 32)
    np.multiply(codes, scales, out=values)
    values -= minima


def _q6_k(blocks: Blocks, out: F32) -> None:
    """Each half of 128 weights is four runs of 32: low nibbles from ql (64 bytes), two top bits from qh (32 bytes)."""
    ql = np.asarray(blocks["ql"]).reshape(-1, 2, 1, 64)
    low = np.concatenate([ql & 15, ql >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = np.asarray(blocks["qh"]).reshape(-1, 2, 1, 32) >> shifts & 3
    codes = (low | high << 4).reshape(-1, 16, 16)
    values = out.reshape(-1, 16, 16)
    np.subtract(codes, np.float32(32), out=values, dtype=np.float32)
    values *= (_scale(blocks, "d") * np.asarray(blocks["scales"]))[:, :, None]


_D, _M, _HIGH, _NIBBLES = ("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)
_K_HEAD = (_D, ("dmin", "<f2"), ("scales", "u1", 12))

_FORMATS = (
    Format("f32", 0, 1, _record(("x", "<f4")), _f32),
    Format("f16", 1, 1, _record(("x", "<f2")), _f32),
    Format("bf16", 30, 1, _record(("x", "<u2")), _bf16),
    Format("q8_0", 8, 32, _record(_D, ("qs", "i1", 32)), lambda b, out: _symmetric(b["qs"], 0, b, out)),
    Format("q4_0", 2, 32, _record(_D, _NIBBLES), lambda b, out: _symmetric(_nibbles(b), 8, b, out)),
    Format("q4_1", 3, 32, _record(_D, _M, _NIBBLES), lambda b, out: _with_minimum(_nibbles(b), b, out)),
    Format("q5_0", 6, 32, _record(_D, _HIGH, _NIBBLES), lambda b, out: _symmetric(_five_bits(b), 16, b, out)),
    Format("q5_1", 7, 32, _record(_D, _M, _HIGH, _NIBBLES), lambda b, out: _with_minimum(_five_bits(b), b, out)),
    Format("q4_k", 12, 256, _record(*_K_HEAD, ("qs", "u1", 128)), _q4_k),
    Format("q5_k", 13, 256, _record(*_K_HEAD, ("qh", "u1", 32), ("qs", "u1", 128)), _q5_k),
    Format("q6_k", 14, 256, _record(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D), _q6_k),
    Format("iq4_nl", 20, 32, _record(_D, _NIBBLES), _iq4_nl),
)
_BY_NAME: Mapping[str, Format] = MappingProxyType({f.name: f for f in _FORMATS})


def formats() -> Mapping[str, Format]:
    """All weight formats by name."""
    return _BY_NAME


def format_of(name: str) -> Format:
    """The format called `name`; raises InvalidRequest with the allowed names."""
    if name not in _BY_NAME:
        raise InvalidRequest(f"weight format {name!r} is unknown; allowed: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def row_bytes(format: str, cols: int) -> int:
    """Bytes of one row of `cols` weights; raises InvalidRequest where cols is not a whole number of blocks."""
    f = format_of(format)
    if cols % f.block_size:
        raise InvalidRequest(f"a row of {cols} weights cannot be {f.name}: its blocks hold {f.block_size} weights each")
    return cols // f.block_size * f.block_bytes


def dequantize(data: U8, format: str, rows: int, cols: int) -> F32:
    """The float32 matrix [rows, cols] whose bytes in `format` are `data` [rows * row_bytes].

    Works in pieces of CHUNK weights. The result is always a new array.
    """
    f = format_of(format)
    assert data.nbytes == rows * row_bytes(format, cols), (data.nbytes, format, rows, cols)
    blocks = data.reshape(-1).view(f.block)
    out = np.empty((len(blocks), f.block_size), np.float32)
    step = CHUNK // f.block_size
    with np.errstate(over="ignore", invalid="ignore"):  # a scale of inf or NaN in a file is the file's affair
        for i in range(0, len(blocks), step):
            f.unpack(blocks[i : i + step], out[i : i + step])
    return out.reshape(rows, cols)

"""Weight formats: how a row of numbers lies in bytes, and how to get the numbers back, in NumPy.

A format is a block of `block_size` weights that share a scale (and perhaps a minimum); a row is whole blocks, one after
the other. The layouts are ggml's (`unpack_ggml`), so that the bytes of a GGUF file are used as they lie, and some are
our own (`unpack_own`). To add a format: one NumPy dtype for its block, one `unpack`, one line in `_FORMATS`.

Every value is computed in float32; in ggml's formats as ggml does, (d * scale) * code - (dmin * minimum), so results
are bit-equal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

import farthing.kernels.unpack_ggml as ggml
import farthing.kernels.unpack_own as own
from farthing.errors import InvalidRequest
from farthing.kernels.unpack_ggml import IQ4_NL_VALUES
from farthing.kernels.unpack_own import C3_VALUES, scale8

__all__ = ["C3_VALUES", "IQ4_NL_VALUES", "Format", "dequantize", "format_of", "formats", "row_bytes", "scale8"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]  # [n] records of one format
Unpack = Callable[[Blocks, F32], None]  # blocks [n] -> out [n, block_size]

CHUNK = 1 << 18  # weights unpacked at a time: temporaries stay in cache and memory stays bounded


@dataclass(frozen=True)
class Format:
    """A weight format: `block_size` weights lie in `block_bytes` bytes, laid out as the record `block`."""

    name: str
    ggml_type: int | None  # None: our own, which GGUF has no number for
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


_D, _M, _HIGH, _NIBBLES = ("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)
_K_HEAD = (_D, ("dmin", "<f2"), ("scales", "u1", 12))
_E, _Z, _TWO_BITS = ("e", "u1"), ("z", "u1"), ("qs", "u1", 8)

_FORMATS = (
    Format("f32", 0, 1, _record(("x", "<f4")), ggml.f32),
    Format("f16", 1, 1, _record(("x", "<f2")), ggml.f32),
    Format("bf16", 30, 1, _record(("x", "<u2")), ggml.bf16),
    Format("q8_0", 8, 32, _record(_D, ("qs", "i1", 32)), ggml.q8_0),
    Format("q4_0", 2, 32, _record(_D, _NIBBLES), ggml.q4_0),
    Format("q4_1", 3, 32, _record(_D, _M, _NIBBLES), ggml.q4_1),
    Format("q5_0", 6, 32, _record(_D, _HIGH, _NIBBLES), ggml.q5_0),
    Format("q5_1", 7, 32, _record(_D, _M, _HIGH, _NIBBLES), ggml.q5_1),
    Format("q2_k", 10, 256, _record(("scales", "u1", 16), ("qs", "u1", 64), _D, ("dmin", "<f2")), ggml.q2_k),
    Format("q3_k", 11, 256, _record(("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), _D), ggml.q3_k),
    Format("q4_k", 12, 256, _record(*_K_HEAD, ("qs", "u1", 128)), ggml.q4_k),
    Format("q5_k", 13, 256, _record(*_K_HEAD, ("qh", "u1", 32), ("qs", "u1", 128)), ggml.q5_k),
    Format("q6_k", 14, 256, _record(("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), _D), ggml.q6_k),
    Format("iq4_nl", 20, 32, _record(_D, _NIBBLES), ggml.iq4_nl),
    Format("iq4_xs", 23, 256, _record(_D, ("scales_h", "<u2"), ("scales_l", "u1", 4), ("qs", "u1", 128)), ggml.iq4_xs),
    Format("tq2_0", 35, 256, _record(("qs", "u1", 64), _D), ggml.tq2_0),
    Format("q6", None, 32, _record(_E, _Z, _NIBBLES, ("q2", "u1", 8)), partial(own.with_zero, 6)),
    Format("q5", None, 32, _record(_E, _Z, _NIBBLES, _HIGH), partial(own.with_zero, 5)),
    Format("q4", None, 32, _record(_E, _Z, _NIBBLES), partial(own.with_zero, 4)),
    Format("q3", None, 32, _record(_E, _Z, _TWO_BITS, _HIGH), partial(own.with_zero, 3)),
    Format("q2", None, 32, _record(_E, _Z, _TWO_BITS), partial(own.with_zero, 2)),
    Format("c4", None, 32, _record(_E, _NIBBLES), own.c4),
    Format("c3", None, 32, _record(_E, _TWO_BITS, _HIGH), own.c3),
    Format("t2", None, 64, _record(_E, ("qs", "u1", 13)), own.t2),
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

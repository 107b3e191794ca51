"""How the blocks of our own weight formats unpack to float32 (docs/architecture.md has the table).

A block has one byte for its scale and, in q6 to q2, one for its zero point. A weight is d * (code - zero), or d times
an entry of a fixed table of integers (c4, c3), or d * (trit - 1) (t2). All of that is exact in float32: a scale has
four significant bits, a difference at most nine.

Every function takes blocks [n], records as `formats` lays them out, and fills out [n, block_size].
"""

import numpy as np
import numpy.typing as npt

from farthing.kernels.unpack_ggml import IQ4_NL_VALUES, nibbles

__all__ = ["C3_VALUES", "bit_plane", "c3", "c4", "codes_of", "planes", "scale8", "t2", "with_table", "with_zero"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]

MAX_SCALE8 = 480.0
MIN_SCALE8 = 2.0**-23
# Eight values that minimise the squared error of normal weights in blocks of 32 whose scale is searched (Lloyd-Max).
C3_VALUES = np.array([-127, -76, -42, -13, 13, 42, 76, 127], np.float32)
TRITS_PER_BYTE = 5


def scale8(codes: U8) -> F32:
    """The scales 2^((u >> 3) - 23) * (1 + (u & 7) / 8): five bits of exponent, three of mantissa, no zero."""
    bits = (np.asarray(codes, np.uint32) << np.uint32(20)) + np.uint32((127 - 23) << 23)
    return bits.view(np.float32)


def planes(packed: U8, bits: int) -> U8:
    """Codes of `bits` bits [n, k * 8 // bits] from k bytes [n, k]: code i in bits i // k * bits on of byte i % k."""
    packed = np.ascontiguousarray(packed)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (packed[:, None, :] >> shifts & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def bit_plane(packed: U8) -> U8:
    """Bits [n, 8 * k] of k bytes [n, k], the lowest of each byte first."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little")


def codes_of(blocks: Blocks) -> U8:
    """The unsigned codes [n, block_size] of any of our formats; trits are 0, 1, 2."""
    names = blocks.dtype.names or ()
    qs: U8 = np.asarray(blocks["qs"])
    if qs.shape[1] == 13:
        return _trits(qs)
    if qs.shape[1] == 16:
        codes = nibbles(blocks)
        if "q2" in names:
            codes |= planes(np.asarray(blocks["q2"]), 2) << np.uint8(4)
        elif "qh" in names:
            codes |= bit_plane(np.asarray(blocks["qh"])) << np.uint8(4)
        return codes
    codes = planes(qs, 2)
    if "qh" in names:
        codes |= bit_plane(np.asarray(blocks["qh"])) << np.uint8(2)
    return codes


def _trits(qs: U8) -> U8:
    """The 64 base-3 digits of 13 bytes [n, 13], the least of a byte first; what a byte has from 3^5 on is lost."""
    powers = np.array([3**k for k in range(TRITS_PER_BYTE)], np.uint8)
    return (np.ascontiguousarray(qs)[:, :, None] // powers % np.uint8(3)).reshape(len(qs), -1)[:, :64]


def with_zero(bits: int, blocks: Blocks, out: F32) -> None:
    zeros = np.asarray(blocks["z"], np.float32)[:, None] * np.float32(2.0 ** (bits - 8))
    np.subtract(codes_of(blocks), zeros, out=out, dtype=np.float32)
    out *= scale8(blocks["e"])[:, None]


def with_table(values: F32, blocks: Blocks, out: F32) -> None:
    np.multiply(values[codes_of(blocks)], scale8(blocks["e"])[:, None], out=out)


def c4(blocks: Blocks, out: F32) -> None:
    with_table(IQ4_NL_VALUES, blocks, out)


def c3(blocks: Blocks, out: F32) -> None:
    with_table(C3_VALUES, blocks, out)


def t2(blocks: Blocks, out: F32) -> None:
    np.subtract(codes_of(blocks), np.float32(1), out=out, dtype=np.float32)
    out *= scale8(blocks["e"])[:, None]

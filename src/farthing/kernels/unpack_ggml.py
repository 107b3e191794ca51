"""How the blocks of GGUF's weight formats unpack to float32, with ggml's own rounding: the same bits come out.

Every function takes blocks [n], records as `formats` lays them out, and fills out [n, block_size].
"""

import numpy as np
import numpy.typing as npt

__all__ = [
    "IQ4_NL_VALUES",
    "bf16",
    "f32",
    "five_bits",
    "iq4_nl",
    "iq4_xs",
    "k_blocks",
    "nibbles",
    "q2_k",
    "q3_k",
    "q3_k_scales",
    "q4_0",
    "q4_1",
    "q4_k",
    "q5_0",
    "q5_1",
    "q5_k",
    "q6_k",
    "q8_0",
    "scale",
    "scales_and_minima",
    "symmetric",
    "tq2_0",
    "two_bits",
    "with_minimum",
]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]


def f32(blocks: Blocks, out: F32) -> None:
    out[:, 0] = blocks["x"]


def bf16(blocks: Blocks, out: F32) -> None:
    np.left_shift(blocks["x"], 16, out=out.view(np.uint32)[:, 0], dtype=np.uint32, casting="unsafe")


def scale(blocks: Blocks, field: str) -> F32:
    return np.asarray(blocks[field], np.float32)[:, None]  # [n, 1]


def nibbles(blocks: Blocks) -> U8:
    """Codes 0..15 [n, 32]: low nibbles are the first 16 weights, high nibbles the last 16."""
    qs: U8 = np.asarray(blocks["qs"])  # [n, 16]
    out = np.empty((len(qs), 32), np.uint8)
    np.bitwise_and(qs, 15, out=out[:, :16])
    np.right_shift(qs, 4, out=out[:, 16:])
    return out


def five_bits(blocks: Blocks) -> U8:
    """Codes 0..31 [n, 32]: nibbles, with the fifth bit of weight i at bit i of qh."""
    codes = nibbles(blocks)
    codes |= np.unpackbits(np.ascontiguousarray(blocks["qh"]), axis=1, bitorder="little") << np.uint8(4)
    return codes


def symmetric(codes: npt.NDArray[np.uint8] | npt.NDArray[np.int8], zero: int, blocks: Blocks, out: F32) -> None:
    np.subtract(codes, np.float32(zero), out=out, dtype=np.float32)
    out *= scale(blocks, "d")


def q8_0(blocks: Blocks, out: F32) -> None:
    symmetric(blocks["qs"], 0, blocks, out)


def q4_0(blocks: Blocks, out: F32) -> None:
    symmetric(nibbles(blocks), 8, blocks, out)


def q5_0(blocks: Blocks, out: F32) -> None:
    symmetric(five_bits(blocks), 16, blocks, out)


def with_minimum(codes: U8, blocks: Blocks, out: F32) -> None:
    np.multiply(codes, scale(blocks, "d"), out=out)
    out += scale(blocks, "m")


def q4_1(blocks: Blocks, out: F32) -> None:
    with_minimum(nibbles(blocks), blocks, out)


def q5_1(blocks: Blocks, out: F32) -> None:
    with_minimum(five_bits(blocks), blocks, out)


IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)  # ggml's kvalues_iq4nl


def iq4_nl(blocks: Blocks, out: F32) -> None:
    np.multiply(IQ4_NL_VALUES[nibbles(blocks)], scale(blocks, "d"), out=out)


def scales_and_minima(blocks: Blocks) -> tuple[F32, F32]:
    """Float scale and minimum [n, 8, 1] of the eight sub-blocks of q4_k and q5_k.

    Twelve bytes hold sixteen 6-bit numbers: bytes 0-3 scales 0-3 and bytes 4-7 minima 0-3 in their low six bits; bytes
    8-11 the low nibbles of scales 4-7 (low) and minima 4-7 (high), whose top two bits are the top bits of bytes 0-7.
    """
    a, b, c = np.split(np.asarray(blocks["scales"]), 3, axis=1)  # [n, 4] each
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1)
    return (scale(blocks, "d") * scales)[:, :, None], (scale(blocks, "dmin") * minima)[:, :, None]


def q4_k(blocks: Blocks, out: F32) -> None:
    qs = np.asarray(blocks["qs"]).reshape(-1, 4, 1, 32)  # sub-blocks 2j and 2j+1 are the nibbles of bytes 32j..32j+31
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)
    k_blocks(codes, blocks, out)


def q5_k(blocks: Blocks, out: F32) -> None:
    qs = np.asarray(blocks["qs"]).reshape(-1, 4, 1, 32)
    codes = np.concatenate([qs & 15, qs >> 4], axis=2).reshape(-1, 8, 32)
    high = np.asarray(blocks["qh"])[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]  # sub-block s: bit s of qh[i]
    k_blocks(codes | (high & 1) << 4, blocks, out)


def k_blocks(codes: U8, blocks: Blocks, out: F32) -> None:
    scales, minima = scales_and_minima(blocks)
    values = out.reshape(-1, 8, 32)
    np.multiply(codes, scales, out=values)
    values -= minima


def q6_k(blocks: Blocks, out: F32) -> None:
    """Each half of 128 weights is four runs of 32: low nibbles from ql (64 bytes), two top bits from qh (32 bytes)."""
    ql = np.asarray(blocks["ql"]).reshape(-1, 2, 1, 64)
    low = np.concatenate([ql & 15, ql >> 4], axis=2).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = np.asarray(blocks["qh"]).reshape(-1, 2, 1, 32) >> shifts & 3
    codes = (low | high << 4).reshape(-1, 16, 16)
    values = out.reshape(-1, 16, 16)
    np.subtract(codes, np.float32(32), out=values, dtype=np.float32)
    values *= (scale(blocks, "d") * np.asarray(blocks["scales"]))[:, :, None]


def two_bits(qs: U8) -> U8:
    """Codes 0..3 [n, 256] of q2_k, q3_k and tq2_0: each 32 bytes [n, 64] are four runs of 32, from the low bits up."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (np.asarray(qs).reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)).reshape(-1, 256)


def q2_k(blocks: Blocks, out: F32) -> None:
    """Sixteen blocks of 16 with a 4-bit scale (low) and a 4-bit minimum (high) each."""
    packed = np.asarray(blocks["scales"])
    scales, minima = scale(blocks, "d") * (packed & 15), scale(blocks, "dmin") * (packed >> 4)
    values = out.reshape(-1, 16, 16)
    np.multiply(two_bits(blocks["qs"]).reshape(-1, 16, 16), scales[:, :, None], out=values)
    values -= minima[:, :, None]


def q3_k_scales(packed: U8) -> U8:
    """The sixteen 6-bit scales [n, 16] in 12 bytes: low nibbles in bytes 0-7, pairs of top bits in bytes 8-11."""
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    scales: U8 = low | high.reshape(-1, 16) << np.uint8(4)
    return scales


def q3_k(blocks: Blocks, out: F32) -> None:
    """Sixteen blocks of 16 with a signed 6-bit scale; bit r of hmask[i] is the third bit of weight i of run r of 32."""
    third = np.asarray(blocks["hmask"])[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    codes = two_bits(blocks["qs"]) | third.reshape(-1, 256) << np.uint8(2)
    scales = scale(blocks, "d") * (q3_k_scales(np.asarray(blocks["scales"])).astype(np.float32) - np.float32(32))
    values = out.reshape(-1, 16, 16)
    np.subtract(codes.reshape(-1, 16, 16), np.float32(4), out=values, dtype=np.float32)
    values *= scales[:, :, None]


def tq2_0(blocks: Blocks, out: F32) -> None:
    symmetric(two_bits(blocks["qs"]), 1, blocks, out)


def iq4_xs(blocks: Blocks, out: F32) -> None:
    """Eight blocks of 32 with a signed 6-bit scale: low nibbles in scales_l, pairs of top bits in scales_h."""
    low = np.asarray(blocks["scales_l"])[:, :, None] >> np.array([0, 4], np.uint8) & 15
    high = np.asarray(blocks["scales_h"])[:, None] >> np.arange(0, 16, 2, dtype=np.uint16) & np.uint16(3)
    scales = scale(blocks, "d") * ((low.reshape(-1, 8) | high << 4).astype(np.float32) - np.float32(32))
    qs = np.asarray(blocks["qs"]).reshape(-1, 8, 16)
    values = out.reshape(-1, 8, 32)
    np.multiply(IQ4_NL_VALUES[np.concatenate([qs & 15, qs >> 4], axis=2)], scales[:, :, None], out=values)

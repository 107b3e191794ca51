"""Round to nearest into GGUF's blocks of one and of 32 weights, as ggml's reference quantizers do: the same bytes come
out (of iq4_nl: up to the rounding of a sum).

Every function takes values [n, block_size] and fills blocks [n].
"""

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import IQ4_NL_VALUES

__all__ = ["bf16", "inverse", "iq4_nl", "plain", "q8_0", "signed_max", "store_codes", "symmetric", "with_minimum"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]


def plain(values: F32, blocks: Blocks) -> None:
    blocks["x"] = values[:, 0]


def bf16(values: F32, blocks: Blocks) -> None:
    """Round half to even on the upper 16 bits; a NaN stays one (and becomes quiet)."""
    bits = values.view(np.uint32)[:, 0]
    rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    is_nan = bits & 0x7FFFFFFF > 0x7F800000
    blocks["x"] = np.where(is_nan, bits >> 16 | 64, rounded)


def inverse(d: F32) -> F32:
    """1 / d, and 0 where that is not finite: such a d is 0 in 16 bits, and the codes do not matter."""
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def q8_0(values: F32, blocks: Blocks) -> None:
    d = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)  # [n, 1]
    scaled = values * inverse(d)
    magnitude = np.abs(scaled)
    codes = np.floor(magnitude)
    codes += magnitude - codes >= 0.5  # half away from zero, which rint is not
    blocks["d"] = d[:, 0]
    blocks["qs"] = np.copysign(codes, scaled, out=codes)


def store_codes(codes: U8, blocks: Blocks) -> None:
    """Codes [n, 32]: low four bits side by side in qs, a fifth (where the format has it) in qh."""
    low = codes & np.uint8(15)
    blocks["qs"] = low[:, :16] | low[:, 16:] << 4
    if "qh" in (blocks.dtype.names or ()):
        blocks["qh"] = np.packbits(codes >> 4, axis=1, bitorder="little")


def signed_max(values: F32) -> F32:
    """The value of largest magnitude in each block [n, 1], the first of them where two are equal."""
    return np.take_along_axis(values, np.abs(values).argmax(axis=1, keepdims=True), axis=1)


def symmetric(values: F32, blocks: Blocks, zero: int) -> None:
    """Codes 0 .. 2 zero - 1 around `zero`; the value of largest magnitude is code 0 exactly."""
    d = signed_max(values) / np.float32(-zero)  # [n, 1]
    scaled = values * inverse(d)
    scaled += np.float32(zero + 0.5)
    blocks["d"] = d[:, 0]
    store_codes(np.minimum(scaled, 2 * zero - 1, out=scaled).astype(np.uint8), blocks)


def with_minimum(values: F32, blocks: Blocks, last: int) -> None:
    """Codes 0 .. last from the block's minimum to its maximum."""
    low = values.min(axis=1, keepdims=True)  # [n, 1]
    d = (values.max(axis=1, keepdims=True) - low) / np.float32(last)
    scaled = values - low
    scaled *= inverse(d)
    scaled += np.float32(0.5)
    blocks["d"], blocks["m"] = d[:, 0], low[:, 0]
    store_codes(np.minimum(scaled, last, out=scaled).astype(np.uint8), blocks)


def iq4_nl(values: F32, blocks: Blocks) -> None:
    """Nearest of the sixteen fixed values, then the scale that minimises the error weighted by the squared weights."""
    midpoints = (IQ4_NL_VALUES[1:] + IQ4_NL_VALUES[:-1]) / 2
    scaled = values * inverse(signed_max(values) / IQ4_NL_VALUES[0])
    codes = np.searchsorted(midpoints, scaled, side="right").astype(np.uint8)
    steps = IQ4_NL_VALUES[codes]
    weighted = values * values * steps
    norm = np.einsum("ij,ij->i", weighted, steps)
    blocks["d"] = np.einsum("ij,ij->i", weighted, values) / np.where(norm > 0, norm, 1)
    store_codes(codes, blocks)

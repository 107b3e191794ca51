"""Our own blocks (`kernels/unpack_own.py`): codes, scales and zero points to bytes, and plain rounding to nearest."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import C3_VALUES, IQ4_NL_VALUES, format_of, scale8
from farthing.kernels.unpack_own import MAX_SCALE8, MIN_SCALE8, TRITS_PER_BYTE
from farthing.quant.pack_ggml import store_codes

__all__ = ["encode_scale8", "nearest_codes", "nearest_zeros", "pack_codes", "round_own"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Blocks = npt.NDArray[np.void]

AFFINE_BITS: Mapping[str, int] = MappingProxyType({"q6": 6, "q5": 5, "q4": 4, "q3": 3, "q2": 2})
TABLES: Mapping[str, F32] = MappingProxyType({"c4": IQ4_NL_VALUES, "c3": C3_VALUES})
OWN_FORMATS = (*AFFINE_BITS, *TABLES, "t2")


def encode_scale8(scales: F32) -> U8:
    """The codes of the nearest scales (`scale8`); what is smaller or larger than all of them becomes the last."""
    bits = np.clip(scales, MIN_SCALE8, MAX_SCALE8).astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 19) >> np.uint32(20)) - np.uint32((127 - 23) << 3)).clip(0, 255).astype(np.uint8)


def pack_codes(format: str, codes: U8, scales: U8, zeros: U8 | None = None) -> Blocks:
    """Blocks [n] of one of OWN_FORMATS from codes [n, block_size], scales [n] and, for q6 to q2, zero points [n].

    A weight is scale8(scale) times code - zero * 2^(bits - 8), the table's entry, or trit - 1.
    """
    blocks = np.zeros(len(codes), format_of(format).block)
    assert (zeros is not None) == (format in AFFINE_BITS), format
    blocks["e"] = scales
    if zeros is not None:
        blocks["z"] = zeros
    if format == "t2":
        padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % TRITS_PER_BYTE)]).reshape(len(codes), -1, TRITS_PER_BYTE)
        blocks["qs"] = padded @ np.array([3**k for k in range(TRITS_PER_BYTE)], np.uint8)
    elif format in ("q3", "q2", "c3"):
        blocks["qs"] = _two_bit_plane(codes & np.uint8(3))
        if format != "q2":
            blocks["qh"] = np.packbits(codes >> 2, axis=1, bitorder="little")
    else:
        store_codes(codes, blocks)
        if format == "q6":
            blocks["q2"] = _two_bit_plane(codes >> np.uint8(4))
    return blocks


def _two_bit_plane(codes: U8) -> U8:
    """[n, 32] codes 0..3 in [n, 8] bytes: code i in bits 2 (i // 8) on of byte i % 8."""
    runs = codes.reshape(-1, 4, 8) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed: U8 = np.bitwise_or.reduce(runs, axis=1)
    return packed


def nearest_codes(format: str, values: F32, scales: U8, zeros: U8 | None = None) -> U8:
    """The codes [n, block_size] nearest to values [n, block_size] under scales [n] (and zero points [n])."""
    scaled = values / scale8(scales)[:, None]
    if format in TABLES:
        table = TABLES[format]
        entries: U8 = np.searchsorted((table[1:] + table[:-1]) / 2, scaled, side="right").astype(np.uint8)
        return entries
    if format == "t2":
        trits: U8 = (np.clip(np.rint(scaled), -1, 1) + 1).astype(np.uint8)
        return trits
    assert zeros is not None, format
    bits = AFFINE_BITS[format]
    scaled += zeros[:, None].astype(np.float32) * np.float32(2.0 ** (bits - 8))
    codes: U8 = np.clip(np.rint(scaled), 0, (1 << bits) - 1).astype(np.uint8)
    return codes


def nearest_zeros(format: str, zeros: F32) -> U8:
    """Zero points in codes [n] to their bytes [n]: in steps of 2^(bits - 8)."""
    codes: U8 = np.clip(np.rint(zeros * np.float32(2.0 ** (8 - AFFINE_BITS[format]))), 0, 255).astype(np.uint8)
    return codes


def round_own(format: str, values: F32, blocks: Blocks) -> None:
    """Round values [n, block_size] to nearest into blocks [n]; the scale covers the block's range.

    t2 takes the scale that makes about a third of normal weights 0. Raises InvalidRequest for weights that are not
    finite or beyond the largest scale.
    """
    low, high = np.minimum(values.min(axis=1), 0), np.maximum(values.max(axis=1), 0)
    if format in AFFINE_BITS:
        steps = (high - low) / np.float32((1 << AFFINE_BITS[format]) - 1)
    elif format in TABLES:
        steps = np.maximum(high, -low) / np.float32(127)
    else:
        steps = np.abs(values).mean(axis=1) * np.float32(1.2)
    if not (steps <= MAX_SCALE8).all():
        raise InvalidRequest(f"some weights are not finite, or too large for {format}; f32 and bf16 hold them")
    scales, zeros = encode_scale8(steps), None
    if format in AFFINE_BITS:
        zeros = nearest_zeros(format, -low / scale8(scales))
    blocks[:] = pack_codes(format, nearest_codes(format, values, scales, zeros), scales, zeros)

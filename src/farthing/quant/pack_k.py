"""GGUF's blocks of 256 weights: from codes and scales to bytes (`pack_k`), and plain rounding to nearest.

ggml's own quantizers search the scales; rounding here takes them from the smallest and largest weight of a sub-block.
Numbers of a block: `d` and `dmin` float32 [n] (rounded to 16 bits by the one who chooses codes), unsigned `codes`
[n, 256], and for each sub-block of 16 or 32 weights an integer scale and, where the format has one, a minimum:

  q2_k   16 x (scale 0..15, minimum 0..15), codes 0..3     d * scale * code - dmin * minimum
  q3_k   16 x scale -32..31, codes 0..7                    d * scale * (code - 4)
  q4_k   8 x (scale 0..63, minimum 0..63), codes 0..15     d * scale * code - dmin * minimum
  q5_k   the same with codes 0..31
  q6_k   16 x scale -128..127, codes 0..63                 d * scale * (code - 32)
  tq2_0  codes 0..2, no scales                             d * (code - 1)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import format_of
from farthing.quant.pack_ggml import inverse, signed_max

__all__ = ["KShape", "pack_k", "round_k", "round_tq2_0"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer]
Blocks = npt.NDArray[np.void]


@dataclass(frozen=True)
class KShape:
    """What a format of blocks of 256 holds: sub-blocks of `sub_size` weights, the largest code, scales in
    [-last_scale - 1, last_scale] (with a zero point) or [0, last_scale] (with minima as large)."""

    sub_size: int
    last_code: int
    last_scale: int
    zero: int | None  # None: minima


K_SHAPES: Mapping[str, KShape] = MappingProxyType(
    {
        "q2_k": KShape(16, 3, 15, None),
        "q3_k": KShape(16, 7, 31, 4),
        "q4_k": KShape(32, 15, 63, None),
        "q5_k": KShape(32, 31, 63, None),
        "q6_k": KShape(16, 63, 127, 32),
    }
)


def pack_k(
    format: str, codes: U8, d: F32, scales: Ints | None = None, dmin: F32 | None = None, minima: Ints | None = None
) -> Blocks:
    """Blocks [n] of a format of `K_SHAPES`, or of tq2_0. scales and minima are [n, 256 // sub_size]."""
    blocks = np.zeros(len(codes), format_of(format).block)
    blocks["d"] = d
    if format == "tq2_0":
        assert scales is None, format
        blocks["qs"] = _two_bits(codes)
        return blocks
    assert scales is not None, format
    if K_SHAPES[format].zero is None:
        assert minima is not None, format
        assert dmin is not None, format
        blocks["dmin"] = dmin
        _store_with_minima(format, blocks, codes, scales.astype(np.uint8), minima.astype(np.uint8))
    elif format == "q3_k":
        blocks["qs"] = _two_bits(codes & np.uint8(3))
        blocks["hmask"] = _bits_of_runs(codes >> np.uint8(2))
        blocks["scales"] = _q3_k_scales((scales + 32).astype(np.uint8))
    else:
        blocks["scales"] = scales
        runs = codes.reshape(-1, 2, 4, 32)
        low = runs & np.uint8(15)
        blocks["ql"] = (low[:, :, :2] | low[:, :, 2:] << np.uint8(4)).reshape(-1, 128)
        blocks["qh"] = _two_bits(codes >> np.uint8(4))
    return blocks


def _store_with_minima(format: str, blocks: Blocks, codes: U8, scales: U8, minima: U8) -> None:
    if format == "q2_k":
        blocks["scales"] = scales | minima << np.uint8(4)
        blocks["qs"] = _two_bits(codes)
        return
    blocks["scales"] = _six_bit_pairs(scales, minima)
    pairs = (codes & np.uint8(15)).reshape(-1, 4, 2, 32)
    blocks["qs"] = (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(-1, 128)
    if format == "q5_k":
        blocks["qh"] = _bits_of_runs(codes >> np.uint8(4))


def _two_bits(codes: U8) -> U8:
    """[n, 256] codes 0..3 in [n, 64] bytes: four runs of 32 in each half, from the low bits up."""
    runs = codes.reshape(-1, 2, 4, 32) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    packed: U8 = np.bitwise_or.reduce(runs, axis=2).reshape(-1, 64)
    return packed


def _bits_of_runs(bits: U8) -> U8:
    """[n, 256] bits in [n, 32] bytes: bit r of byte i is weight i of run r."""
    runs = bits.reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    packed: U8 = np.bitwise_or.reduce(runs, axis=1)
    return packed


def _six_bit_pairs(scales: U8, minima: U8) -> U8:
    """Eight scales and eight minima in 12 bytes, as `unpack_ggml.scales_and_minima` reads them."""
    low = [part[:, :4] | part[:, 4:] >> np.uint8(4) << np.uint8(6) for part in (scales, minima)]
    return np.concatenate([*low, scales[:, 4:] & 15 | minima[:, 4:] << np.uint8(4)], axis=1)


def _q3_k_scales(scales: U8) -> U8:
    """Sixteen scales 0..63 in 12 bytes, as `unpack_ggml.q3_k_scales` reads them."""
    low = scales[:, :8] & 15 | scales[:, 8:] << np.uint8(4)
    top = (scales >> np.uint8(4)).reshape(-1, 4, 4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.concatenate([low, np.bitwise_or.reduce(top, axis=1)], axis=1)


def _in_f16(d: F32) -> F32:
    return d.astype(np.float16).astype(np.float32)


def round_k(format: str, values: F32, blocks: Blocks) -> None:
    """Round values [n, 256] to nearest into blocks [n] of a format of `K_SHAPES`."""
    shape = K_SHAPES[format]
    x = values.reshape(len(values), -1, shape.sub_size)  # [n, subs, sub_size]
    if shape.zero is None:
        low = np.minimum(x.min(axis=2), 0)
        steps = (x.max(axis=2) - low) / np.float32(shape.last_code)  # [n, subs]
        steps = np.maximum(steps, 0)
        d = _in_f16(steps.max(axis=1) / np.float32(shape.last_scale))
        dmin = _in_f16((-low).max(axis=1) / np.float32(shape.last_scale))
        scales, minima = (
            np.clip(np.rint(part * inverse(unit)[:, None]), 0, shape.last_scale)
            for part, unit in ((steps, d), (-low, dmin))
        )
        codes = _codes(x + (dmin[:, None] * minima)[:, :, None], d[:, None] * scales, 0, shape.last_code)
        blocks[:] = pack_k(format, codes, d, scales.astype(np.int16), dmin, minima.astype(np.int16))
    else:
        steps = signed_max(x.reshape(-1, shape.sub_size)).reshape(len(x), -1) / np.float32(-shape.zero)
        d = _in_f16(signed_max(steps)[:, 0] / np.float32(-shape.last_scale - 1))
        scales = np.clip(np.rint(steps * inverse(d)[:, None]), -shape.last_scale - 1, shape.last_scale)
        codes = _codes(x, d[:, None] * scales, shape.zero, shape.last_code)
        blocks[:] = pack_k(format, codes, d, scales.astype(np.int16))


def _codes(x: F32, steps: F32, zero: int, last: int) -> U8:
    codes = np.rint(x * inverse(steps)[:, :, None]) + np.float32(zero)
    clipped: U8 = np.clip(codes, 0, last).astype(np.uint8)
    return clipped.reshape(len(x), -1)


def round_tq2_0(values: F32, blocks: Blocks) -> None:
    """The scale is the largest magnitude, as in ggml's reference."""
    d = np.abs(values).max(axis=1, keepdims=True)
    scaled = values * inverse(d)
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + 1
    blocks[:] = pack_k("tq2_0", codes.astype(np.uint8), d[:, 0])

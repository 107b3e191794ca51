"""Codes to bytes and back: every code, scale and zero point comes out as it went in; rounding is to the nearest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.kernels.formats import dequantize, format_of, scale8
from farthing.kernels.unpack_own import codes_of
from farthing.quant import quantize
from farthing.quant.pack_k import K_SHAPES, pack_k
from farthing.quant.pack_own import AFFINE_BITS, OWN_FORMATS, TABLES, encode_scale8, nearest_codes, pack_codes


def largest_code(format: str) -> int:
    return 2 if format == "t2" else (1 << int(format[1])) - 1


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(OWN_FORMATS), st.integers(0, 2**32 - 1))
def test_codes_scales_and_zeros_come_out_as_they_went_in(format: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, largest_code(format) + 1, (5, format_of(format).block_size), dtype=np.uint8)
    scales = rng.integers(0, 256, 5, dtype=np.uint8)
    zeros = rng.integers(0, 256, 5, dtype=np.uint8) if format in AFFINE_BITS else None
    blocks = pack_codes(format, codes, scales, zeros)
    np.testing.assert_array_equal(codes_of(blocks), codes)
    np.testing.assert_array_equal(blocks["e"], scales)
    if zeros is not None:
        np.testing.assert_array_equal(blocks["z"], zeros)
    values = dequantize(blocks.view(np.uint8), format, 5, codes.shape[1])
    np.testing.assert_array_equal(nearest_codes(format, values, scales, zeros), codes)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(K_SHAPES)), st.integers(0, 2**32 - 1))
def test_blocks_of_256_mean_what_they_were_made_of(format: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = K_SHAPES[format]
    subs = 256 // shape.sub_size
    codes = rng.integers(0, shape.last_code + 1, (3, 256), dtype=np.uint8)
    d, dmin = (rng.normal(size=3).astype(np.float16).astype(np.float32) for _ in range(2))
    runs = codes.reshape(3, subs, shape.sub_size).astype(np.float32)
    if shape.zero is None:
        scales, minima = (rng.integers(0, shape.last_scale + 1, (3, subs)) for _ in range(2))
        blocks = pack_k(format, codes, d, scales, dmin, minima)
        steps, low = (d[:, None] * scales).astype(np.float32), (dmin[:, None] * minima).astype(np.float32)
        expected = steps[:, :, None] * runs - low[:, :, None]
    else:
        scales = rng.integers(-shape.last_scale - 1, shape.last_scale + 1, (3, subs))
        blocks = pack_k(format, codes, d, scales)
        expected = (d[:, None] * scales).astype(np.float32)[:, :, None] * (runs - shape.zero)
    got = dequantize(blocks.view(np.uint8), format, 3, 256)
    np.testing.assert_array_equal(got, expected.reshape(3, 256))


@pytest.mark.parametrize("code", range(256))
def test_every_scale_is_its_own_nearest(code: int) -> None:
    scale = scale8(np.array([code], np.uint8))
    assert encode_scale8(scale) == encode_scale8(scale * np.float32(1.02)) == encode_scale8(scale * np.float32(0.98))
    assert encode_scale8(scale) == code


def test_scales_beyond_the_ends() -> None:
    np.testing.assert_array_equal(encode_scale8(np.array([0, 1e-20, 1e9], np.float32)), [0, 0, 255])


@pytest.mark.parametrize(
    ("format", "most"),
    [
        *(
            ("q6", 0.03),
            ("q5", 0.055),
            ("q4", 0.11),
            ("q3", 0.23),
            ("q2", 0.6),
            ("c4", 0.1),
            ("c3", 0.24),
            ("t2", 0.52),
        ),
        *(("q6_k", 0.025), ("q5_k", 0.045), ("q4_k", 0.09), ("q3_k", 0.26), ("q2_k", 0.45), ("tq2_0", 1.0)),
    ],
)
def test_error_of_normal_weights(format: str, most: float) -> None:
    x = np.random.default_rng(5).normal(0, 0.02, (64, 512)).astype(np.float32)
    t = quantize(x, format)
    error = np.linalg.norm(dequantize(t.data, format, 64, 512) - x) / np.linalg.norm(x)
    assert most / 2 < error < most


@pytest.mark.parametrize("format", [*AFFINE_BITS, "t2", *K_SHAPES, "tq2_0"])
def test_zeros_stay_zeros(format: str) -> None:
    t = quantize(np.zeros((2, 256), np.float32), format)
    assert not dequantize(t.data, format, 2, 256).any()


@pytest.mark.parametrize("format", TABLES)
def test_zeros_become_next_to_nothing(format: str) -> None:
    t = quantize(np.zeros((2, 256), np.float32), format)
    assert np.abs(dequantize(t.data, format, 2, 256)).max() < 2e-6

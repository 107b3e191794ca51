"""Every format unpacks to the same bits as the gguf package, on random blocks and at the edges."""

import tracemalloc

import gguf.quants
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from farthing.errors import InvalidRequest
from farthing.kernels.formats import (
    C3_VALUES,
    CHUNK,
    IQ4_NL_VALUES,
    dequantize,
    format_of,
    formats,
    row_bytes,
    scale8,
)

STANDARD = [name for name, f in formats().items() if f.ggml_type is not None]
OWN_BITS = {"q6": 6.5, "q5": 5.5, "q4": 4.5, "q3": 3.5, "q2": 2.5, "c4": 4.25, "c3": 3.25, "t2": 1.75}


def random_blocks(name: str, num_blocks: int, seed: int = 0) -> np.ndarray:
    """Blocks with random codes and finite scales, as uint8 [num_blocks * block_bytes]."""
    rng = np.random.default_rng(seed)
    f = format_of(name)
    blocks = rng.integers(0, 256, (num_blocks, f.block_bytes), dtype=np.uint8).view(f.block)[:, 0]
    for field in ("d", "m", "dmin"):
        if field in f.block.names:
            blocks[field] = rng.normal(0, 0.1, num_blocks)
    if name in ("f32", "f16"):
        blocks["x"] = rng.normal(0, 2, num_blocks)
    return blocks.view(np.uint8)


@pytest.mark.parametrize("name", STANDARD)
def test_sizes_are_ggmls(name: str) -> None:
    f = format_of(name)
    assert GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]] == (f.block_size, f.block_bytes)
    assert GGMLQuantizationType[name.upper()] == f.ggml_type
    assert f.bits_per_weight == pytest.approx(8 * row_bytes(name, 256) / 256)


@pytest.mark.parametrize("name", STANDARD)
def test_dequantize_equals_gguf_bit_for_bit(name: str) -> None:
    f = format_of(name)
    rows, cols = 37, 2 * max(f.block_size, 32)
    data = random_blocks(name, rows * cols // f.block_size)
    expected = gguf.quants.dequantize(data.reshape(rows, -1), GGMLQuantizationType[name.upper()])
    got = dequantize(data, name, rows, cols)
    assert got.shape == (rows, cols)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.mark.parametrize("name", formats())
def test_pieces_do_not_show(name: str) -> None:
    f = format_of(name)
    cols = 256
    rows = CHUNK // cols + 3
    data = random_blocks(name, rows * cols // f.block_size)
    whole = dequantize(data, name, rows, cols)
    last = dequantize(data[-row_bytes(name, cols) :], name, 1, cols)
    np.testing.assert_array_equal(whole[-1:], last)


@pytest.mark.parametrize("name", formats())
def test_unaligned_and_readonly_bytes(name: str) -> None:
    f = format_of(name)
    data = random_blocks(name, 256 // f.block_size)
    shifted = np.concatenate([np.zeros(1, np.uint8), data])[1:]
    shifted.flags.writeable = False
    np.testing.assert_array_equal(dequantize(shifted, name, 1, 256), dequantize(data, name, 1, 256))


def test_bf16_keeps_every_pattern() -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    got = dequantize(patterns.view(np.uint8), "bf16", 1, 1 << 16)
    np.testing.assert_array_equal(got.view(np.uint32)[0] >> 16, patterns)


def test_memory_is_bounded() -> None:
    rows, cols = 4096, 1024
    data = random_blocks("q6_k", rows * cols // 256)
    tracemalloc.start()
    dequantize(data, "q6_k", rows, cols)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows * cols * 4 + 8 * CHUNK


def test_unknown_format_names_the_allowed_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"'q9_9'.*q4_1"):
        format_of("q9_9")


def test_a_row_is_whole_blocks() -> None:
    with pytest.raises(InvalidRequest, match=r"100 weights.*q4_0.*32"):
        row_bytes("q4_0", 100)


def test_our_own_formats_and_their_sizes() -> None:
    assert {name: f.bits_per_weight for name, f in formats().items() if f.ggml_type is None} == OWN_BITS


@pytest.mark.parametrize("name", OWN_BITS)
def test_our_own_blocks_weight_by_weight(name: str) -> None:
    """The bytes' meaning once more, with Python's integers."""
    f = format_of(name)
    data = random_blocks(name, 40).reshape(40, -1)
    got = dequantize(data.reshape(-1), name, 40, f.block_size)
    for row, raw in zip(got, data.tolist(), strict=True):
        d = 2.0 ** ((raw[0] >> 3) - 23) * (1 + (raw[0] & 7) / 8)
        rest = raw[2:] if name.startswith("q") else raw[1:]
        bits = int(name[1])
        for i, value in enumerate(row.tolist()):
            if name == "t2":
                assert value == d * (rest[i // 5] // 3 ** (i % 5) % 3 - 1)
                continue
            if bits >= 4:
                code = rest[i % 16] >> 4 * (i // 16) & 15
                if bits == 6:
                    code |= (rest[16 + i % 8] >> 2 * (i // 8) & 3) << 4
                elif bits == 5:
                    code |= (rest[16 + i // 8] >> i % 8 & 1) << 4
            else:
                code = rest[i % 8] >> 2 * (i // 8) & 3
                if bits == 3:
                    code |= (rest[8 + i // 8] >> i % 8 & 1) << 2
            if name.startswith("c"):
                assert value == d * float((IQ4_NL_VALUES if bits == 4 else C3_VALUES)[code])
            else:
                assert value == d * (code - raw[1] * 2.0 ** (bits - 8))


def test_scales_of_a_byte() -> None:
    scales = scale8(np.arange(256, dtype=np.uint8))
    assert (scales[0], scales[-1]) == (2.0**-23, 480)
    assert (np.diff(scales) > 0).all()
    assert (scales[1:] / scales[:-1] <= 1.125).all()

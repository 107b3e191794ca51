"""Quantizing: the same bytes as ggml's reference (through the gguf package), and sound on every input."""

import tracemalloc

import gguf.quants
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.kernels.formats import formats, row_bytes
from farthing.quant import QTensor, dequantize, quantizable, quantize, requantize, target_format

# Largest error of a block, in units of the step between two of its codes (half a step, and a little for the 16-bit
# scale); symmetric formats clip the end opposite to the largest value by one step.
STEPS = {"q8_0": (127, 0.6), "q4_0": (8, 1.1), "q4_1": (15, 0.6), "q5_0": (16, 1.1), "q5_1": (31, 0.6)}

blocks_of_floats = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.just(64)),
    elements=st.floats(-1000, 1000, width=32) | st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-30, 1e-40]),
)


def values_of(t: QTensor) -> np.ndarray:
    return dequantize(t.data, t.format, t.rows, t.cols)


def mixed_rows() -> np.ndarray:
    """Rows of many scales, with zeros, ties, one sign only, and codes that fall exactly between two."""
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(64, 256)) * rng.lognormal(sigma=3, size=(64, 1))).astype(np.float32)
    x[0] = 0
    x[1] = np.abs(x[1])
    x[2] = np.tile([-1, 1], 128)
    x[3] = np.tile([1, -1], 128)
    x[4] = np.round(x[4] * 4) / 4
    x[5] = np.arange(256) / 2 - 63.75
    x[6] = 3.25
    return x


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "tq2_0"])
def test_bytes_equal_ggmls_reference(name: str) -> None:
    x = mixed_rows()
    expected = np.ascontiguousarray(gguf.quants.quantize(x, GGMLQuantizationType[name.upper()])).view(np.uint8)
    t = quantize(x, name)
    assert (t.format, t.rows, t.cols, t.data.nbytes) == (name, 64, 256, 64 * row_bytes(name, 256))
    np.testing.assert_array_equal(t.data, expected.reshape(-1))


def test_iq4_nl_keeps_its_own_values_and_beats_q4_0() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(64, 256)).astype(np.float32)
    first = values_of(quantize(x, "iq4_nl"))
    np.testing.assert_allclose(values_of(quantize(first, "iq4_nl")), first, rtol=2e-3)
    assert np.square(first - x).mean() < np.square(values_of(quantize(x, "q4_0")) - x).mean()
    assert not values_of(quantize(np.zeros((2, 32), np.float32), "iq4_nl")).any()


@settings(deadline=None, max_examples=60)
@given(blocks_of_floats, st.sampled_from(sorted(STEPS)))
def test_error_is_bounded_by_the_step(x: np.ndarray, name: str) -> None:
    levels, steps = STEPS[name]
    blocks = x.reshape(-1, 32)
    spread = np.ptp(blocks, axis=1) if name.endswith("_1") else np.abs(blocks).max(axis=1)
    largest = np.abs(blocks).max(axis=1)
    error = np.abs(values_of(quantize(x, name)).reshape(-1, 32) - blocks).max(axis=1)
    in_f16 = largest * 2e-3 + 1e-4  # rounding of scale and minimum to 16 bits, subnormal ones included
    assert (error <= spread / levels * steps + in_f16 * (1 + (name == "q8_0"))).all()


@settings(deadline=None, max_examples=40)
@given(blocks_of_floats, st.sampled_from(["f32", "bf16", "f16"]))
def test_plain_formats_are_projections(x: np.ndarray, name: str) -> None:
    once = quantize(x, name)
    again = quantize(values_of(once), name)
    np.testing.assert_array_equal(once.data, again.data)
    if name == "f32":
        np.testing.assert_array_equal(values_of(once), x)


@pytest.mark.parametrize("name", quantizable())
@pytest.mark.parametrize("source", formats())
def test_requantize_is_quantize_of_the_values(source: str, name: str) -> None:
    rng = np.random.default_rng(3)
    f = formats()[source]
    raw = rng.integers(0, 256, (9 * 256 // f.block_size, f.block_bytes), dtype=np.uint8).view(f.block)
    for field in set(f.block.names or ()) & {"d", "m", "dmin", "x"}:
        raw[field] = rng.integers(0x3C00, 0x4000, raw.shape) if source == "bf16" else rng.normal(0, 0.1, raw.shape)
    if "e" in (f.block.names or ()):
        raw["e"] = rng.integers(100, 180, raw.shape)
    old = QTensor(source, 9, 256, raw.reshape(-1).view(np.uint8))
    new = requantize(old, name)
    if source == name:
        assert new is old
    else:
        np.testing.assert_array_equal(new.data, quantize(values_of(old), name).data)


def test_requantize_needs_little_memory() -> None:
    old = quantize(np.ones((4096, 1024), np.float32), "q8_0")
    tracemalloc.start()
    new = requantize(old, "q4_1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < new.data.nbytes + (10 << 20)  # the whole of it in float32 would be 16 MiB


def test_pieces_do_not_show() -> None:
    x = np.random.default_rng(4).normal(size=(1500, 256)).astype(np.float32)  # more than one piece
    whole = quantize(x, "q4_1")
    np.testing.assert_array_equal(whole.data[-160:], quantize(x[-1:], "q4_1").data)
    np.testing.assert_array_equal(requantize(quantize(x, "f32"), "q4_1").data, whole.data)


def test_a_vector_is_one_row() -> None:
    t = quantize(np.arange(8, dtype=np.float32), "f32")
    assert (t.rows, t.cols) == (1, 8)


def test_which_tensors_are_reblocked() -> None:
    matrix = quantize(np.ones((2, 64), np.float32), "bf16")
    odd = quantize(np.ones((2, 48), np.float32), "bf16")
    vector = quantize(np.ones(64, np.float32), "f16")
    assert [target_format(t, "q4_1") for t in (matrix, odd, vector)] == ["q4_1", "bf16", "f32"]
    assert [target_format(t, "f16") for t in (matrix, odd, vector)] == ["f16", "f16", "f32"]


@pytest.mark.parametrize("name", [n for n in quantizable() if n not in ("f32", "bf16")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_a_scale_cannot_hold_is_an_error(name: str, value: float) -> None:
    x = np.ones((2, 256), np.float32)
    x[1, 5] = value
    with pytest.raises(InvalidRequest, match=f"too large for {name}"):
        quantize(x, name)


def test_bf16_keeps_nan_and_infinity() -> None:
    got = values_of(quantize(np.array([[np.nan, np.inf, -np.inf]], np.float32), "bf16"))
    np.testing.assert_array_equal(got, [[np.nan, np.inf, -np.inf]])


def test_wrong_formats_and_columns_are_errors() -> None:
    x = np.ones((2, 33), np.float32)
    with pytest.raises(InvalidRequest, match=r"iq4_xs can be read, not written; allowed: f32.*q4_1"):
        quantize(x, "iq4_xs")
    with pytest.raises(InvalidRequest, match=r"'q7' is unknown; allowed: f32"):
        quantize(x, "q7")
    with pytest.raises(InvalidRequest, match="33 weights cannot be q4_0"):
        quantize(x, "q4_0")
    with pytest.raises(InvalidRequest, match="33 weights cannot be q4_0"):
        requantize(quantize(x, "f32"), "q4_0")

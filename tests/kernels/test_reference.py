"""The oracle itself, held to sums written out in loops, and to law 1: a row does not depend on its batch."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import (
    Add,
    Attention,
    Batch,
    Embed,
    Head,
    KVSpec,
    Linear,
    Op,
    Plan,
    QTensor,
    RmsNorm,
    Rope,
    StoreKV,
    SwiGLU,
    View,
)
from farthing.kernels.reference import ReferenceProgram, quantize_activations
from farthing.models import load_model
from farthing.quant import quantize
from tests.models.small import GOLDEN, SMALL

F32 = npt.NDArray[np.float32]
RNG = np.random.default_rng(5)
V = 7  # rows of the table that puts given numbers into a buffer


def numbers(*shape: int) -> F32:
    return RNG.normal(size=shape).astype(np.float32)


def f32(array: F32) -> QTensor:
    rows, cols = np.atleast_2d(array).shape
    return QTensor("f32", rows, cols, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def through(table: F32, ops: list[Op], out: View, *, tensors: dict[str, QTensor] | None = None, **batch: Any) -> F32:
    """`ops` on a buffer "x" that holds the rows of `table` [T, width]; returns `out`, which a Head of ones' unit rows
    reads back."""
    num_tokens, width = table.shape
    eye = np.eye(out.width, dtype=np.float32)
    plan = Plan(
        {"x": width, "y": out.width + out.offset},
        (Embed(View("x", 0, width), "table"), *ops, Head(out, "eye")),
        out.width,
        {"table": f32(table), "eye": f32(eye), **(tensors or {})},
    )
    arange = np.arange(num_tokens, dtype=np.int32)
    defaults = {
        "token_ids": arange,
        "positions": arange,
        "seq_starts": np.array([0, num_tokens], np.int32),
        "page_tables": np.array([[2, 0, 1]], np.int32),
        "logit_rows": arange,
    }
    return ReferenceProgram(plan, KVSpec(1, 2, 8, 4, 8, "f32", "f32")).run(Batch(**(defaults | batch)))


def test_embed_scales_rows() -> None:
    table = numbers(V, 8)
    ids = np.array([3, 3, 0], np.int32)
    x = View("x", 0, 8)
    tensors = {"table": f32(table), "eye": f32(np.eye(8, dtype=np.float32))}
    plan = Plan({"x": 8}, (Embed(x, "table", 2.0), Head(x, "eye")), 8, tensors)
    arange = np.arange(3, dtype=np.int32)
    batch = Batch(ids, arange, np.array([0, 3], np.int32), np.zeros((1, 1), np.int32), arange)
    assert np.array_equal(ReferenceProgram(plan, KVSpec(1, 1, 8, 1)).run(batch), 2 * table[ids])


def test_rms_norm_in_groups() -> None:
    x, weight = numbers(V, 16), numbers(8)
    dst = View("y", 0, 16)
    found = through(x, [RmsNorm(View("x", 0, 16), dst, "w", 0.25, 8)], dst, tensors={"w": f32(weight)})
    for t in range(V):
        for start in (0, 8):
            group = x[t, start : start + 8].astype(float)
            expected = group / math.sqrt(sum(v * v for v in group) / 8 + 0.25) * weight
            np.testing.assert_allclose(found[t, start : start + 8], expected, rtol=1e-6)


def test_linear_puts_weights_side_by_side_adds_bias_and_adds_to_dst() -> None:
    x, a, b, bias = numbers(V, 8), numbers(3, 8), numbers(2, 8), numbers(2)
    tensors = {"a": f32(a), "b": f32(b), "bias": f32(bias)}
    src, dst = View("x", 0, 8), View("y", 1, 5)
    once = Linear(src, dst, ("a", "b"), (None, "bias"))
    expected = np.concatenate([x @ a.T, x @ b.T + bias], axis=1)
    np.testing.assert_allclose(through(x, [once], dst, tensors=tensors), expected, rtol=1e-5, atol=1e-6)
    twice = [once, Linear(src, dst, ("a", "b"), (None, "bias"), is_added=True)]
    np.testing.assert_allclose(through(x, twice, dst, tensors=tensors), 2 * expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("format", ["q8_0", "q4_0", "q4_1"])
def test_int8_product_is_the_exact_product_of_codes(format: str) -> None:
    x, weight = numbers(V, 64), quantize(numbers(3, 64), format)
    op = Linear(View("x", 0, 64), View("y", 0, 3), ("w",), (None,), product="int8")
    found = through(x, [op], View("y", 0, 3), tensors={"w": weight})
    values = dequantize(weight.data, format, 3, 64)
    for t in range(V):
        for n in range(3):
            total = 0.0
            for start in (0, 32):
                block = x[t, start : start + 32]
                scale = np.abs(block).max() / np.float32(127)
                codes = [int(np.rint(v / scale)) for v in block]
                assert max(map(abs, codes)) == 127
                row = values[n, start : start + 32].tolist()
                total += float(scale) * sum(c * w for c, w in zip(codes, row, strict=True))
            assert found[t, n] == pytest.approx(total, rel=1e-6, abs=1e-6)


def test_int8_product_leaves_weights_without_codes_alone() -> None:
    x, weight = numbers(V, 32), numbers(3, 32)
    for product in ("f32", "int8"):
        op = Linear(View("x", 0, 32), View("y", 0, 3), ("w",), (None,), product=product)
        found = through(x, [op], View("y", 0, 3), tensors={"w": f32(weight)})
        np.testing.assert_allclose(found, x @ weight.T, rtol=1e-5, atol=1e-6)


def test_activations_round_half_to_even_and_zero_stays_zero() -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, :4] = [127, 0.5, 1.5, -2.5]
    found = quantize_activations(x)
    assert found[0, :4].tolist() == [127, 0, 2, -2]
    assert not found[0, 4:].any()


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_rope_turns_pairs(style: Any) -> None:
    x, freq = numbers(V, 16), np.array([1.0, 0.5, 0.25, 0.1], np.float32)
    view = View("x", 0, 16)
    found = through(x, [Rope(view, 8, "f", style, 1.5)], view, tensors={"f": f32(freq)})
    for t in range(V):
        for head in (0, 8):
            for i in range(4):
                a, b = (head + i, head + i + 4) if style == "half" else (head + 2 * i, head + 2 * i + 1)
                turned = complex(x[t, a], x[t, b]) * 1.5 * complex(math.cos(t * freq[i]), math.sin(t * freq[i]))
                np.testing.assert_allclose([found[t, a], found[t, b]], [turned.real, turned.imag], rtol=1e-5, atol=1e-6)


def test_swiglu_and_add() -> None:
    x = numbers(V, 16)
    x[0, 0], x[1, 0] = -1e4, 1e4  # where exp overflows, and where the gate is open
    gate, up = View("x", 0, 8), View("x", 8, 8)
    found = through(x, [SwiGLU(gate, up, View("y", 0, 8)), Add(gate, View("y", 0, 8))], View("y", 0, 8))
    wide = x.astype(float)
    sigmoid = 1 / (1 + np.exp(np.minimum(-wide[:, :8], 700)))
    np.testing.assert_allclose(found, wide[:, :8] * sigmoid * wide[:, 8:] + wide[:, :8], rtol=1e-5, atol=1e-6)


def test_attention_is_causal_grouped_and_reads_its_own_pages() -> None:
    """Two sequences of 9 and 4 tokens, 4 query heads on 2 kv heads, pages in odd order; softmax written out."""
    x = numbers(13, 64)  # q 32, k 16, v 16
    ops: list[Op] = [
        StoreKV(0, View("x", 32, 16), View("x", 48, 16)),
        Attention(0, View("x", 0, 32), View("y", 0, 32), 4, 0.3),
    ]
    found = through(
        x,
        ops,
        View("y", 0, 32),
        positions=np.array([*range(9), *range(4)], np.int32),
        seq_starts=np.array([0, 9, 13], np.int32),
        page_tables=np.array([[2, 0], [3, 99]], np.int32),
    )
    for start, end in ((0, 9), (9, 13)):
        for t in range(start, end):
            for head in range(4):
                q = x[t, head * 8 : head * 8 + 8].astype(float)
                k = x[start : t + 1, 32 + head // 2 * 8 :][:, :8].astype(float)
                v = x[start : t + 1, 48 + head // 2 * 8 :][:, :8].astype(float)
                weights = np.exp(0.3 * k @ q)
                expected = weights @ v / weights.sum()
                np.testing.assert_allclose(found[t, head * 8 : head * 8 + 8], expected, rtol=1e-5, atol=1e-6)


def test_head_only_for_the_rows_asked_for() -> None:
    x = numbers(V, 8)
    rows = np.array([5, 1], np.int32)
    assert np.array_equal(through(x, [], View("x", 0, 8), logit_rows=rows), x[rows])
    assert through(x, [], View("x", 0, 8), logit_rows=np.zeros(0, np.int32)).shape == (0, 8)


def test_codecs() -> None:
    kv = KVSpec(1, 2, 8, 4, 8, "f16", "f32")
    program = ReferenceProgram(Plan({}, (), 1, {}), kv)
    assert program.kv_bytes == 4 * 8 * 2 * 8 * (2 + 4)
    with pytest.raises(InvalidRequest, match="'q2' is unknown; allowed: f32, f16, q8"):
        ReferenceProgram(Plan({}, (), 1, {}), KVSpec(1, 2, 8, 4, 8, "q2", "f32"))


@pytest.mark.parametrize("product", ["f32", "int8"])
@pytest.mark.parametrize("name", SMALL)
def test_a_row_does_not_depend_on_its_batch(name: str, product: Any) -> None:
    """A whole prompt, its tokens one by one, and its parts beside another sequence: the same bits."""
    model = load_model(GOLDEN / name, weights="q4_1")
    c = model.config
    kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, 8, 8, "f16", "f16")
    ids = RNG.integers(0, c.vocab_size, 21).astype(np.int32)
    plan = model.plan(product)
    arange = np.arange(21, dtype=np.int32)

    def batch(*pieces: tuple[int, int, list[int]]) -> Batch:  # (first, end, pages) of a sequence
        spans = [np.arange(first, end) for first, end, _ in pieces]
        positions = np.concatenate(spans).astype(np.int32)
        starts = np.cumsum([0, *map(len, spans)]).astype(np.int32)
        tables = np.array([pages for _, _, pages in pieces], np.int32)
        return Batch(ids[positions], positions, starts, tables, arange[: len(positions)])

    pages, others = [4, 1, 6], [0, 2, 3]
    whole = ReferenceProgram(plan, kv).run(batch((0, 21, pages)))
    one_by_one = ReferenceProgram(plan, kv)
    assert np.array_equal(np.concatenate([one_by_one.run(batch((t, t + 1, pages))) for t in range(21)]), whole)
    mixed = ReferenceProgram(plan, kv)
    first = mixed.run(batch((0, 8, pages), (0, 13, others)))
    second = mixed.run(batch((13, 21, others), (8, 21, pages)))
    shared = mixed.run(batch((16, 21, [4, 1, 7])))  # two complete pages of the first sequence, read by a third
    assert np.array_equal(np.concatenate([first[:8], second[8:]]), whole)
    assert np.array_equal(np.concatenate([first[8:], second[:8]]), whole)
    assert np.array_equal(shared, whole[16:])

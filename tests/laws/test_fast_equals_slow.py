"""Law 4: every format, product and instruction set agrees with the NumPy reference within its stated bound.

A plan that embeds rows of a random table, multiplies them by one weight and shows the result through an identity head
lets a single product be seen. Float32 sums of n terms may differ by n * 2^-24 of the sum of their magnitudes; integer
products are exact within a block, so the same bound holds for them against the reference's codes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import kernels
from farthing.kernels.formats import dequantize, format_of, row_bytes
from farthing.kernels.gates import GateRule
from farthing.kernels.plan import Batch, Embed, Head, KVSpec, Linear, Moe, Plan, QTensor, SwiGLU, View
from farthing.kernels.reference import quantize_activations

VOCAB = 64
KV = KVSpec(num_layers=1, num_kv_heads=1, head_dim=8, num_pages=16)


def f32_tensor(values):
    return QTensor("f32", *values.shape, np.ascontiguousarray(values, np.float32).view(np.uint8).reshape(-1))


def random_weight(rng, name, rows, cols):
    """Random codes under finite scales: every bit pattern a file could hold, but for infinite scales."""
    fmt = format_of(name)
    if fmt.block_size == 1:
        values = rng.normal(0, 0.1, (rows, cols)).astype(np.float32)
        if name == "f32":
            return f32_tensor(values)
        halves = values.astype(np.float16) if name == "f16" else (values.view(np.uint32) >> 16).astype(np.uint16)
        return QTensor(name, rows, cols, halves.view(np.uint8).reshape(-1))
    blocks = rng.integers(0, 256, rows * row_bytes(name, cols), dtype=np.uint8).view(fmt.block)
    for scale in {"d", "m", "dmin"} & set(fmt.block.names):
        blocks[scale] = rng.normal(0, 0.01, blocks[scale].shape).astype(np.float16)
    if "e" in (fmt.block.names or ()):
        blocks["e"] = rng.integers(80, 120, blocks["e"].shape)  # about as large
    return QTensor(name, rows, cols, blocks.view(np.uint8).reshape(-1))


def linear_plan(table, weight, bias, product):
    tensors = {"table": f32_tensor(table), "w": weight, "eye": f32_tensor(np.eye(VOCAB, weight.rows))}
    if bias is not None:
        tensors["b"] = f32_tensor(bias[None])
    x, y = View("x", 0, weight.cols), View("y", 0, weight.rows)
    ops = (
        Embed(x, "table"),
        Linear(x, y, ("w",), ("b" if bias is not None else None,), False, product),
        Head(y, "eye"),
    )
    return Plan({"x": weight.cols, "y": weight.rows}, ops, VOCAB, tensors)


def words_error(weight, x):
    """What scales and minima of 16 bits, in units of their row, may move a result by [T, rows]; and the sum of codes,
    which is an eighth of a code too small where a block's products are negative."""
    blocks = weight.data.view(format_of("q4_1").block).reshape(weight.rows, -1)
    scale, minimum = (blocks[field].astype(np.float64) for field in ("d", "m"))  # [rows, blocks]
    middle = np.abs(8 * scale + minimum)  # what code 8 stands for
    unit = np.maximum(np.abs(scale), middle / 8).max(1) / 32767
    largest = np.abs(x).reshape(len(x), -1, 32).max(2)
    of_words = (
        8.01 * unit * 1.01 * np.abs(x).sum(1)[:, None]
    )  # half a unit for codes up to 8 from the middle, 4 for that
    return of_words + 1.01 * (largest / 127 / 8) @ middle.T


def batch_of(token_ids):
    n = len(token_ids)  # up to 256
    positions = np.arange(n, dtype=np.int32)
    pages = np.arange(16, dtype=np.int32)[None]
    return Batch(np.asarray(token_ids, np.int32), positions, np.array([0, n], np.int32), pages, positions)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", sorted(kernels.formats()))
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_blocks=st.integers(1, 3),
    rows=st.sampled_from([1, 7, 8, 9, 16, 31, VOCAB]),
    num_tokens=st.integers(1, 40),
    has_bias=st.booleans(),
    product=st.sampled_from(["f32", "int8"]),
    num_threads=st.integers(1, 3),
)
def test_products(isa, name, seed, num_blocks, rows, num_tokens, has_bias, product, num_threads):
    rng = np.random.default_rng(seed)
    cols = num_blocks * max(format_of(name).block_size, 32)
    table = rng.normal(0, 1, (VOCAB, cols)).astype(np.float32)
    table[:, rng.integers(0, cols)] *= 50  # outlier columns are what 8-bit activations suffer from
    weight = random_weight(rng, name, rows, cols)
    bias = rng.normal(0, 1, rows).astype(np.float32) if has_bias else None
    token_ids = rng.integers(0, VOCAB, num_tokens)

    program = kernels.load(linear_plan(table, weight, bias, product), KV, num_threads=num_threads, isa=isa)
    got = kernels.run(program, batch_of(token_ids))[:, :rows].copy()

    w = dequantize(weight.data, name, rows, cols).astype(np.float64)
    x = table[token_ids]
    is_int8 = product == "int8" and format_of(name).block_size > 1
    x64 = quantize_activations(x) if is_int8 else x.astype(np.float64)
    expected = x64 @ w.T + (0 if bias is None else bias)
    # Scale and minimum are applied apart: where they nearly cancel, their magnitudes bound the error, not w's.
    magnitude = np.abs(x64) @ (np.abs(w) + np.abs(w).max()).T + (0 if bias is None else np.abs(bias))
    bound = 2 * (cols + 8) * 2.0**-24 * magnitude + 1e-30
    if is_int8 and name == "q4_1" and isa == "avx512":
        bound += words_error(weight, x)
    np.testing.assert_array_less(np.abs(got - expected), bound)

    # The reference interprets the same plan, and a token's result is the same bit for bit in any company.
    slow = kernels.load(linear_plan(table, weight, bias, product), KV, isa="reference")
    reference = kernels.run(slow, batch_of(token_ids))[:, :rows]
    np.testing.assert_array_less(np.abs(got - reference), bound)
    at = int(rng.integers(0, num_tokens))
    alone = kernels.run(program, batch_of(token_ids[at : at + 1]))[:, :rows]
    np.testing.assert_array_equal(alone[0], got[at])


def moe_plan(rng, name, product, *, num_experts, top_k, hidden, size):
    """Router, experts and head on rows of a random table; y begins at zero. Also a plan with a dense feed-forward of
    expert 0's weights in the place of the experts."""
    table = rng.normal(0, 1, (VOCAB, hidden)).astype(np.float32)
    table[:, rng.integers(0, hidden)] *= 20
    tensors = {"table": f32_tensor(table), "zeros": f32_tensor(np.zeros((VOCAB, hidden)))}
    tensors |= {"eye": f32_tensor(np.eye(VOCAB, hidden)), "router": f32_tensor(rng.normal(0, 1, (num_experts, hidden)))}
    for e in range(num_experts):
        tensors |= {
            f"gate.{e}": random_weight(rng, name, size, hidden),
            f"up.{e}": random_weight(rng, name, size, hidden),
        }
        tensors[f"down.{e}"] = random_weight(
            rng, name if size % format_of(name).block_size == 0 else "f16", hidden, size
        )
    x, y, logits = View("x", 0, hidden), View("y", 0, hidden), View("logits", 0, num_experts)
    both, inner = View("both", 0, 2 * size), View("inner", 0, size)
    names = (tuple(f"{part}.{e}" for e in range(num_experts)) for part in ("gate", "up", "down"))
    moe = (
        Linear(x, logits, ("router",), (None,)),
        Moe(x, logits, y, GateRule("softmax", top_k), *names, None, product),
    )
    dense = (
        Linear(x, both, ("gate.0", "up.0"), (None, None), False, product),
        SwiGLU(View("both", 0, size), View("both", size, size), inner),
        Linear(inner, y, ("down.0",), (None,), True, product),
    )
    buffers = {"x": hidden, "y": hidden, "logits": num_experts, "both": 2 * size, "inner": size}
    around = (Embed(x, "table"), Embed(y, "zeros")), (Head(y, "eye"),)
    return [Plan(buffers, (*around[0], *ops, *around[1]), VOCAB, tensors) for ops in (moe, dense)]


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", sorted(kernels.formats()))
@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_experts=st.sampled_from([1, 3, 5, 8]),
    top_k=st.integers(1, 4),
    size=st.sampled_from([8, 40, 64, 256]),
    num_tokens=st.sampled_from([1, 2, 7, 40, 180]),
    product=st.sampled_from(["f32", "int8"]),
    num_threads=st.integers(1, 3),
)
def test_experts(isa, name, seed, num_experts, top_k, size, num_tokens, product, num_threads):
    rng = np.random.default_rng(seed)
    sizes = {
        "num_experts": num_experts,
        "top_k": min(top_k, num_experts),
        "hidden": max(64, format_of(name).block_size),
    }
    plan, dense = moe_plan(rng, name, product, size=size, **sizes)
    token_ids = rng.integers(0, VOCAB, num_tokens)
    program = kernels.load(plan, KV, num_threads=num_threads, isa=isa)
    got = kernels.run(program, batch_of(token_ids)).copy()
    expected = kernels.run(kernels.load(plan, KV, isa="reference"), batch_of(token_ids))
    # Rounding between the two products may move an activation to the next of its 8-bit codes.
    bound = (4e-5 if product == "f32" else 1e-2) * np.abs(expected).max()  # three products one after the other
    assert np.abs(got - expected).max() <= bound
    for at in rng.integers(0, num_tokens, 3):  # the same bits in any company
        alone = kernels.run(program, batch_of(token_ids[at : at + 1]))
        np.testing.assert_array_equal(alone[0], got[at])
    if num_experts == 1:  # a softmax over one is 1: an expert is a dense feed-forward, bit for bit
        np.testing.assert_array_equal(
            kernels.run(kernels.load(dense, KV, num_threads=num_threads, isa=isa), batch_of(token_ids)), got
        )


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_experts_of_a_long_batch_are_those_of_its_tokens(isa):
    """More tokens than a block of them holds, in one expert's rows mostly."""
    rng = np.random.default_rng(3)
    plan, _ = moe_plan(rng, "q4_0", "int8", num_experts=5, top_k=2, hidden=64, size=32)
    token_ids = rng.integers(0, VOCAB, 1100)
    token_ids[rng.random(1100) < 0.7] = 9
    program = kernels.load(plan, KVSpec(1, 1, 8, 80), num_threads=2, isa=isa)
    n, positions = len(token_ids), np.arange(1100, dtype=np.int32)
    pages = np.arange(80, dtype=np.int32)[None]
    batch = Batch(token_ids.astype(np.int32), positions, np.array([0, n], np.int32), pages, positions)
    got = kernels.run(program, batch).copy()
    one_by_one = {t: kernels.run(program, batch_of([t]))[0].copy() for t in range(VOCAB)}
    np.testing.assert_array_equal(got, np.stack([one_by_one[t] for t in token_ids]))


def test_only_chosen_experts_are_read():
    plan, _ = moe_plan(np.random.default_rng(3), "q8_0", "int8", num_experts=8, top_k=2, hidden=64, size=32)
    program = kernels.load(plan, KV)
    kernels.run(program, batch_of([5]))
    assert program.num_experts_read == 2
    kernels.run(program, batch_of([5] * 9))
    assert program.num_experts_read == 4
    kernels.run(program, batch_of(np.arange(VOCAB)))
    assert 8 < program.num_experts_read <= 12


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", sorted(kernels.formats()))
def test_embedding_unpacks_exactly(isa, name):
    rng = np.random.default_rng(7)
    cols = max(format_of(name).block_size, 32)
    weight = random_weight(rng, name, VOCAB, cols)
    x = View("x", 0, cols)
    eye = f32_tensor(np.eye(VOCAB, cols))
    plan = Plan({"x": cols}, (Embed(x, "w", 2.0), Head(x, "eye")), VOCAB, {"w": weight, "eye": eye})
    got = kernels.run(kernels.load(plan, KV, isa=isa), batch_of(np.arange(VOCAB)))
    expected = 2 * dequantize(weight.data, name, VOCAB, cols) @ np.eye(VOCAB, cols, dtype=np.float32).T
    np.testing.assert_allclose(got, expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", sorted(kernels.formats()))
def test_bytes_that_mean_nothing_spoil_only_their_row(isa, name):
    """Scales that are not numbers, base-3 bytes from 243 on: whatever a file says."""
    rng = np.random.default_rng(8)
    cols = 2 * max(format_of(name).block_size, 32)
    table = rng.normal(0, 1, (VOCAB, cols)).astype(np.float32)
    good = random_weight(rng, name, 24, cols)
    data = good.data.reshape(24, -1).copy()
    data[5] = 255
    bad = QTensor(name, 24, cols, data.reshape(-1))
    for product in ("f32", "int8"):
        expected, got = ({}, {})
        for weight, logits in ((good, expected), (bad, got)):
            plan = linear_plan(table, weight, None, product)  # shown: the rows before the bad one, in the same panel
            tensors = {**plan.tensors, "eye": f32_tensor(np.eye(VOCAB, 5))}
            ops = (*plan.ops[:-1], Head(View("y", 0, 5), "eye"))
            program = kernels.load(Plan(plan.buffers, ops, VOCAB, tensors), KV, isa=isa)
            for n in (1, 3, 17, 50):
                logits[n] = kernels.run(program, batch_of(range(n))).copy()
        for n in expected:
            assert np.isfinite(expected[n]).all()
            np.testing.assert_array_equal(got[n], expected[n])


def test_a_batch_outside_its_bounds_is_refused():
    rng = np.random.default_rng(1)
    plan = linear_plan(rng.normal(size=(VOCAB, 32)).astype(np.float32), random_weight(rng, "q4_1", 8, 32), None, "int8")
    for isa in kernels.instruction_sets():
        program = kernels.load(plan, KV, isa=isa)
        good = batch_of([1, 2, 3])
        for field, values in (
            ("token_ids", [1, VOCAB, 2]),
            ("token_ids", [1, -1, 2]),
            ("positions", [0, 2, 3]),
            ("positions", [-1, 0, 1]),
            ("positions", [254, 255, 256]),
            ("seq_starts", [0, 2]),
            ("logit_rows", [3]),
        ):
            bad = Batch(**{**good.__dict__, field: np.asarray(values, np.int32)})
            with pytest.raises(ValueError, match=r"\w"):
                kernels.run(program, bad)
        with pytest.raises(ValueError, match="page"):
            kernels.run(program, Batch(**{**good.__dict__, "page_tables": np.full((1, 16), 16, np.int32)}))
        assert np.isfinite(kernels.run(program, good)).all()

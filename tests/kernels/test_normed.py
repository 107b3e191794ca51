"""A norm that the product behind it computes gives the bits of the two apart, and its rows are there for whoever reads
them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.plan import Add, Batch, Embed, Head, KVSpec, Linear, Op, Plan, QTensor, RmsNorm, SwiGLU, View
from farthing.quant import quantize

F32 = npt.NDArray[np.float32]
VOCAB, SIZE, GATED = 67, 64, 96


def views(hidden: int) -> dict[str, View]:
    widths = {"x": hidden, "normed": hidden, "other": hidden, "y": SIZE, "z": SIZE, "both": 2 * GATED, "inner": GATED}
    return {name: View(name, 0, width) for name, width in widths.items()}


def f32(array: F32) -> QTensor:
    rows, cols = array.shape
    return QTensor("f32", rows, cols, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def tensors(hidden: int) -> dict[str, QTensor]:
    rng = np.random.default_rng(hidden)

    def weight(rows: int, cols: int) -> F32:
        values: F32 = (rng.normal(size=(rows, cols)) / np.sqrt(cols)).astype(np.float32)
        return values

    plain: dict[str, npt.NDArray[Any]] = {
        "table": weight(VOCAB, hidden) * np.geomspace(0.1, 9, VOCAB)[:, None],
        "zeros": np.zeros((VOCAB, SIZE)),
        "norm": 1 + weight(1, hidden),
        "heads": 1 + weight(1, 32),
        "float": weight(SIZE, hidden),
    }
    plain |= {f"eye.{n}": np.eye(VOCAB, n) for n in {hidden, SIZE, GATED, 2 * GATED}}
    shapes = {"a": (SIZE - 24, hidden), "b": (24, hidden), "gate": (GATED, hidden), "up": (GATED, hidden)}
    shapes["down"] = (SIZE, GATED)
    return {name: f32(array.astype(np.float32)) for name, array in plain.items()} | {
        name: quantize(weight(*shape), "q4_0") for name, shape in shapes.items()
    }


def normed(v: dict[str, View], is_gated: bool) -> tuple[Op, ...]:
    norm = RmsNorm(v["x"], v["normed"], "norm", 1e-5, v["x"].width)
    if not is_gated:
        return norm, Linear(v["normed"], v["y"], ("a", "b"), (None, None), False, "int8")
    return (
        norm,
        Linear(v["normed"], v["both"], ("gate", "up"), (None, None), False, "int8"),
        SwiGLU(View("both", 0, GATED), View("both", GATED, GATED), v["inner"]),
        Linear(v["inner"], v["y"], ("down",), (None,), True, "int8"),
    )


def run(ops: tuple[Op, ...], read: View, hidden: int, num_tokens: int, isa: str, num_threads: int) -> F32:
    """What stands in the first columns of `read` when all is done."""
    around = (Embed(View("x", 0, hidden), "table"), Embed(View("y", 0, SIZE), "zeros"))
    buffers = {name: view.width for name, view in views(hidden).items()}
    plan = Plan(buffers, (*around, *ops, Head(read, f"eye.{read.width}")), VOCAB, tensors(hidden))
    program = kernels.load(plan, KVSpec(1, 1, 8, 64), num_threads=num_threads, isa=isa)
    ids, counting = (np.arange(num_tokens) * 31 % VOCAB).astype(np.int32), np.arange(num_tokens, dtype=np.int32)
    tables = np.arange(64, dtype=np.int32)[None]
    return kernels.run(program, Batch(ids, counting, np.array([0, num_tokens], np.int32), tables, counting)).copy()


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5, 13, 40, 151, 300])
@pytest.mark.parametrize("hidden", [32, 416, 832])
@pytest.mark.parametrize("is_gated", [False, True])
def test_the_same_bits_as_apart(isa: str, num_tokens: int, hidden: int, is_gated: bool) -> None:
    v = views(hidden)
    ops, shape = normed(v, is_gated), (hidden, num_tokens, isa)
    apart = run((*ops, Add(v["normed"], v["other"])), v["y"], *shape, 1)
    assert np.ptp(apart, axis=0).any() or num_tokens == 1
    np.testing.assert_array_equal(run(ops, v["y"], *shape, 3), apart)
    again = (*ops, RmsNorm(v["x"], v["normed"], "norm", 1e-5, hidden), *ops[1:])
    reading = (*ops, Add(v["normed"], v["other"]), *again[len(ops) :], Add(v["normed"], v["other"]))
    np.testing.assert_array_equal(run(again, v["y"], *shape, 2), run(reading, v["y"], *shape, 2))


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("num_tokens", [1, 40])
@pytest.mark.parametrize("name", ["normed", "both", "inner"])
def test_what_lies_between_can_be_read(isa: str, num_tokens: int, name: str) -> None:
    v = views(64)
    ops = normed(v, is_gated=True)
    before = run(ops[: {"normed": 1, "both": 2, "inner": 3}[name]], v[name], 64, num_tokens, isa, 2)
    assert before[:, : v[name].width].any()
    np.testing.assert_array_equal(run(ops, v[name], 64, num_tokens, isa, 2), before)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("num_tokens", [1, 40])
def test_norms_that_others_need_stay_apart(isa: str, num_tokens: int) -> None:
    """Of heads, in place, and in front of a product of floats."""
    hidden, shape = 64, (64, num_tokens, isa, 2)
    v = views(hidden)
    of_heads = RmsNorm(v["x"], v["normed"], "heads", 1e-5, 32)
    in_place = RmsNorm(v["x"], v["x"], "norm", 1e-5, hidden)
    aside = View("other", 0, hidden)
    for norm in (of_heads, in_place):
        linear = Linear(norm.dst, v["y"], ("a", "b"), (None, None), False, "int8")
        expected = run((norm, Add(norm.dst, aside), linear), v["y"], *shape)
        np.testing.assert_array_equal(run((norm, linear), v["y"], *shape), expected)
    norm = RmsNorm(v["x"], v["normed"], "norm", 1e-5, hidden)
    floats = Linear(v["normed"], v["y"], ("float",), (None,), False, "int8")
    expected = run((norm, Add(v["normed"], aside), floats), v["y"], *shape)
    np.testing.assert_array_equal(run((norm, floats), v["y"], *shape), expected)
    by_floats = Linear(v["normed"], v["y"], ("a", "b"), (None, None), False, "f32")
    expected = run((norm, Add(v["normed"], aside), by_floats), v["y"], *shape)
    np.testing.assert_array_equal(run((norm, by_floats), v["y"], *shape), expected)

"""Gated feed-forwards that are run as one operation give the bits of their operations apart, and what lies
between is there for whoever reads it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.plan import Add, Batch, Embed, GeGLU, Head, KVSpec, Linear, Op, Plan, QTensor, SwiGLU, View
from farthing.quant import quantize

F32 = npt.NDArray[np.float32]
VOCAB, HIDDEN = 67, 64


def views(size: int) -> dict[str, View]:
    widths = {"x": HIDDEN, "y": HIDDEN, "both": 2 * size, "inner": size, "other": 2 * size}
    return {name: View(name, 0, width) for name, width in widths.items()}


def f32(array: F32) -> QTensor:
    rows, cols = array.shape
    return QTensor("f32", rows, cols, np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def tensors(size: int, format: str) -> dict[str, QTensor]:
    rng = np.random.default_rng(size)

    def weight(rows: int, cols: int) -> F32:
        values: F32 = (rng.normal(size=(rows, cols)) / np.sqrt(cols)).astype(np.float32)
        return values

    plain: dict[str, npt.NDArray[Any]] = {
        "table": weight(VOCAB, HIDDEN) * 20,
        "zeros": np.zeros((VOCAB, HIDDEN)),
        "bias": weight(1, size),
    }
    plain |= {f"eye.{n}": np.eye(VOCAB, n) for n in {HIDDEN, size, 2 * size}}
    shapes = {"gate": (size, HIDDEN), "up": (size, HIDDEN), "down": (HIDDEN, size)}
    return {name: f32(array.astype(np.float32)) for name, array in plain.items()} | {
        name: quantize(weight(*shape), format) for name, shape in shapes.items()
    }


def feed_forward(v: dict[str, View], size: int, is_gelu: bool) -> tuple[Op, ...]:
    gate, up = View("both", 0, size), View("both", size, size)
    act = GeGLU(gate, up, v["inner"]) if is_gelu else SwiGLU(gate, up, v["inner"])
    return (
        Linear(v["x"], v["both"], ("gate", "up"), ("bias", None), False, "int8"),
        act,
        Linear(v["inner"], v["y"], ("down",), (None,), True, "int8"),
    )


def run(ops: tuple[Op, ...], read: View, size: int, num_tokens: int, isa: str, format: str, num_threads: int) -> F32:
    """What stands in the first columns of `read` when all is done."""
    v = views(size)
    around = (Embed(v["x"], "table"), Embed(v["y"], "zeros")), (Head(read, f"eye.{read.width}"),)
    buffers = {name: view.width for name, view in v.items()}
    plan = Plan(buffers, (*around[0], *ops, *around[1]), VOCAB, tensors(size, format))
    program = kernels.load(plan, KVSpec(1, 1, 8, 64), num_threads=num_threads, isa=isa)
    ids, counting = (np.arange(num_tokens) * 31 % VOCAB).astype(np.int32), np.arange(num_tokens, dtype=np.int32)
    tables = np.arange(64, dtype=np.int32)[None]
    return kernels.run(program, Batch(ids, counting, np.array([0, num_tokens], np.int32), tables, counting)).copy()


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("num_tokens", [1, 4, 5, 13, 40, 151, 300])
@pytest.mark.parametrize("size", [32, 96, 224])
@pytest.mark.parametrize("is_gelu", [False, True])
def test_the_same_bits_as_apart(isa: str, num_tokens: int, size: int, is_gelu: bool) -> None:
    v, format = views(size), "q8_0" if is_gelu else "q4_0"
    ops = feed_forward(v, size, is_gelu)
    args = (size, num_tokens, isa, format)
    apart = run((*ops, Add(v["both"], v["other"])), v["y"], *args, 1)
    assert np.ptp(apart, axis=0).any() or num_tokens == 1
    np.testing.assert_array_equal(run(ops, v["y"], *args, 3), apart)
    np.testing.assert_array_equal(
        run((*ops, *ops), v["y"], *args, 2),
        run((*ops, Add(v["inner"], View("other", 0, size)), *ops), v["y"], *args, 2),
    )


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", ["both", "inner"])
def test_what_lies_between_can_be_read(isa: str, name: str) -> None:
    size, num_tokens = 32, 40
    v = views(size)
    ops = feed_forward(v, size, False)
    before = run(ops[:2], v[name], size, num_tokens, isa, "q8_0", 2)
    assert before[:, : v[name].width].any()
    np.testing.assert_array_equal(run(ops, v[name], size, num_tokens, isa, "q8_0", 2), before)
    np.testing.assert_array_equal(run((*ops, *ops), v[name], size, num_tokens, isa, "q8_0", 2), before)

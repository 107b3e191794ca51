"""Native rotary embedding against the reference: tables are made once a step, and a plan may need several."""

import numpy as np
import pytest

from farthing import kernels
from farthing.kernels.plan import Batch, Embed, Head, KVSpec, Plan, QTensor, Rope, View

VOCAB = 48
WIDTH = 48


def tensor(values: np.ndarray) -> QTensor:
    rows, cols = values.shape
    return QTensor("f32", rows, cols, np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8))


def plan() -> Plan:
    """Three heads of 16, each turned another way, and the first one twice."""
    rng = np.random.default_rng(0)
    ops = (
        Embed(View("x", 0, WIDTH), "table"),
        Rope(View("x", 0, 16), 16, "slow", "half"),
        Rope(View("x", 16, 16), 16, "fast", "half"),
        Rope(View("x", 32, 16), 16, "slow", "interleaved", 0.5),
        Rope(View("x", 0, 16), 16, "slow", "half"),
        Head(View("x", 0, WIDTH), "eye"),
    )
    tensors = {
        "table": tensor(rng.normal(size=(VOCAB, WIDTH))),
        "slow": tensor(0.01 ** np.linspace(0, 1, 8)[None]),
        "fast": tensor(0.5 ** np.arange(8)[None]),
        "eye": tensor(np.eye(VOCAB, WIDTH)),
    }
    return Plan({"x": WIDTH}, ops, VOCAB, tensors)


def batch(lengths: tuple[int, ...], firsts: tuple[int, ...]) -> Batch:
    num = sum(lengths)
    positions = np.concatenate([np.arange(f, f + n) for n, f in zip(lengths, firsts, strict=True)])
    tables = np.arange(16 * len(lengths)).reshape(len(lengths), 16)
    ids = np.arange(num) % VOCAB
    starts = np.cumsum([0, *lengths])
    return Batch(*(np.asarray(a, np.int32) for a in (ids, positions, starts, tables, np.arange(num))))


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_several_tables_in_one_plan(isa: str) -> None:
    spec = KVSpec(1, 1, 16, 32)
    native, reference = (kernels.load(plan(), spec, num_threads=2, isa=name) for name in (isa, "reference"))
    for lengths, firsts in (((3, 1), (0, 200)), ((70,), (5,)), ((1, 1), (17, 18))):  # a second step, a larger one
        given = batch(lengths, firsts)
        np.testing.assert_allclose(kernels.run(native, given), kernels.run(reference, given), atol=2e-6)

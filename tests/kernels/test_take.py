"""Take: what is behind it computes the wanted rows alone, and they are bit for bit what they are without it."""

import numpy as np
import pytest

from farthing import kernels
from farthing.kernels.gates import GateRule
from farthing.kernels.plan import Batch, Embed, Head, KVSpec, Linear, Moe, Plan, QTensor, Take, View
from farthing.models import Model, load_model
from farthing.models.decoder import LastLayer
from tests.models.small import GOLDEN

PAGES = np.arange(6, dtype=np.int32).reshape(3, 2)
STARTS = np.array([0, 17, 18, 25], np.int32)
POSITIONS = np.concatenate([np.arange(17), np.arange(1), np.arange(7)]).astype(np.int32)
IDS = np.random.default_rng(5).integers(3, 300, 25).astype(np.int32)
ROWS = {
    "the last of each": [16, 17, 24],
    "some, in any order, one twice": [20, 3, 16, 3],
    "all": list(range(25)),
    "more than there are tokens": [0] * 40,
    "none": [],
}


def program_of(model: Model, isa: str, last_layer: LastLayer) -> kernels.Program:
    c = model.config
    kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, 6, 16, windows=c.windows)
    return kernels.load(model.plan("int8", last_layer=last_layer), kv, num_threads=2, isa=isa)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("isa", [*kernels.instruction_sets(), "reference"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "olmoe"])
@pytest.mark.parametrize("last_layer", ["wanted", "but for queries"])
def test_rows_are_the_same_bits(family: str, isa: str, last_layer: LastLayer, rows: list[int]) -> None:
    model = load_model(GOLDEN / family, weights="q8_0")
    plain, taking = (program_of(model, isa, tokens) for tokens in ("all", last_layer))
    batch = Batch(IDS, POSITIONS, STARTS, PAGES, np.array(rows, np.int32))
    expected = kernels.run(plain, batch).copy()
    assert expected.shape == (len(rows), model.config.vocab_size)
    for _ in range(2):  # buffers are used again
        np.testing.assert_array_equal(kernels.run(taking, batch), expected)
    np.testing.assert_array_equal(taking.pages, plain.pages)
    np.testing.assert_array_equal(taking.hidden(), plain.hidden())


def test_once_and_into_another_buffer() -> None:
    model = load_model(GOLDEN / "llama")
    plan = model.plan()
    hidden, normed = View("hidden", 0, 64), View("normed", 0, 64)
    kv = KVSpec(2, 2, 16, 6, 16)

    def load(*more: Take | Head) -> kernels.Program:
        return kernels.load(Plan(plan.buffers, (*plan.ops[:-1], *more), plan.vocab_size, plan.tensors), kv)

    with pytest.raises(ValueError, match="two buffers"):
        load(Take(((hidden, hidden),)))
    with pytest.raises(ValueError, match="once"):
        load(*[Take(((hidden, normed),))] * 2)
    with pytest.raises(ValueError, match="once"):
        load(Head(normed, "head"), Head(normed, "head"))


def test_more_rows_than_tokens_of_a_mixture() -> None:
    """Its scratch is that of the rows: one token wanted five hundred times."""
    size, num_experts, num_rows = 256, 4, 500
    rng = np.random.default_rng(7)
    names = [tuple(f"{part}.{e}" for e in range(num_experts)) for part in ("gate", "up", "down")]
    values = {name: rng.normal(0, 0.1, (size, size)) for part in names for name in part}
    values |= {"table": rng.normal(0, 1, (3, size)), "router": rng.normal(0, 1, (num_experts, size))}
    tensors = {
        name: QTensor("f32", *array.shape, array.astype(np.float32).view(np.uint8).reshape(-1))
        for name, array in values.items()
    }
    x, taken, y = (View(name, 0, size) for name in ("x", "taken", "y"))
    logits = View("logits", 0, num_experts)
    ops = (
        Embed(x, "table"),
        Take(((x, taken),)),
        Linear(taken, logits, ("router",), (None,)),
        Linear(taken, y, ("gate.0",), (None,)),
        Moe(taken, logits, y, GateRule("softmax", num_experts), *names),
        Head(y, "table"),
    )
    plan = Plan({"x": size, "taken": size, "y": size, "logits": num_experts}, ops, 3, tensors)
    program = kernels.load(plan, KVSpec(1, 1, 8, 1, 16))

    def run(num: int) -> np.ndarray:
        rows, starts = np.zeros(num, np.int32), np.array([0, 1], np.int32)
        return kernels.run(program, Batch(IDS[:1] * 0, POSITIONS[:1], starts, PAGES[:1] * 0, rows)).copy()

    np.testing.assert_array_equal(run(num_rows), np.repeat(run(1), num_rows, axis=0))

"""The largest logits that the head notes while it makes them: choices are the same with them and without."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels import Program, Sampled
from farthing.kernels.plan import Batch, Embed, Head, KVSpec, Plan, Product, View
from farthing.quant import quantize

SIZES = (1, 63, 64, 65, 130, 1000, 5003)  # of the vocabulary: whole blocks of 64, parts of them, many panels
WIDTH = 32


def a_program(vocab_size: int, isa: str, product: Product, num_threads: int) -> Program:
    rng = np.random.default_rng(vocab_size)
    x = View("x", 0, WIDTH)
    rows = rng.normal(size=(vocab_size, WIDTH)).astype(np.float32)
    weight = quantize(rows, "q8_0")
    plan = Plan({"x": WIDTH}, (Embed(x, "w"), Head(x, "w", product=product)), vocab_size, {"w": weight})
    return kernels.load(plan, KVSpec(1, 1, 8, 8), num_threads=num_threads, isa=isa)


def logits_of(program: Program, vocab_size: int, num_rows: int) -> npt.NDArray[np.float32]:
    ids = (np.arange(num_rows) * 7919 % vocab_size).astype(np.int32)
    counting = np.arange(num_rows, dtype=np.int32)
    tables = np.arange(8, dtype=np.int32)[None]
    return kernels.run(program, Batch(ids, counting, np.array([0, num_rows], np.int32), tables, counting))


def choose(program: Program, logits: npt.NDArray[np.float32], seed: int, **more: Any) -> Sampled:
    n = len(logits)
    rng = np.random.default_rng(seed)
    return kernels.sample(
        program,
        logits,
        temperature=rng.choice([0.0, 0.7, 1.5], n).astype(np.float32),
        top_k=rng.choice([0, 1, 5], n).astype(np.int32),
        top_p=rng.choice([1.0, 0.9], n).astype(np.float32),
        min_p=rng.choice([0.0, 0.1], n).astype(np.float32),
        penalty=rng.choice([1.0, 1.3], n).astype(np.float32),
        seed=np.arange(n, dtype=np.uint64),
        step=np.full(n, seed, np.uint64),
        history=np.zeros(n, np.int32),
        history_starts=np.arange(n + 1, dtype=np.int64),
        num_top=1,
        wants_logprob=rng.choice([0, 1], n).astype(np.uint8),
        **more,
    )


def is_equal(a: Sampled, b: Sampled) -> bool:
    names = ("token", "logprob", "top_token", "top_logprob")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("product", ["int8", "f32"])
@pytest.mark.parametrize("vocab_size", SIZES)
def test_noted_or_not_the_choice_is_the_same(vocab_size: int, product: Product, isa: str) -> None:
    program = a_program(vocab_size, isa, product, num_threads=2)
    for seed, num_rows in enumerate((1, 3, 16, 50, 7)):
        logits = logits_of(program, vocab_size, num_rows)
        known = choose(program, logits, seed, is_as_run=np.ones(num_rows, np.uint8))
        assert is_equal(known, choose(program, logits, seed))
        assert is_equal(known, choose(program, logits.copy(), seed, is_as_run=np.ones(num_rows, np.uint8)))


def test_a_row_that_was_changed_since_is_read_again() -> None:
    program = a_program(130, "auto", "int8", num_threads=2)
    logits = logits_of(program, 130, 4)
    best = int(logits[1].argmax())
    logits[1, best] = -np.inf
    greedy = [int(row.argmax()) for row in logits]
    is_as_run = np.array([1, 0, 1, 1], np.uint8)
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    counts = {"seed": np.zeros(4, np.uint64), "step": np.zeros(4, np.uint64), "top_k": np.zeros(4, np.int32)}
    none = {"history": np.zeros(0, np.int32), "history_starts": np.zeros(5, np.int64), "num_top": 0}
    wants = {"wants_logprob": np.zeros(4, np.uint8), "is_as_run": is_as_run}
    filters = {"temperature": zeros, "top_p": ones, "min_p": zeros, "penalty": ones}
    assert kernels.sample(program, logits, **filters, **counts, **none, **wants).token.tolist() == greedy
    assert greedy[1] != best

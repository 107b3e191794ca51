"""The measured programs: the hash of their logits, what they run, and rows that hang together."""

from pathlib import Path

import numpy as np
import pytest

from farthing import kernels
from farthing.errors import CapacityError
from farthing.kernels import Limits, instruction_sets
from farthing.models import load_model
from farthing.report.roofline import DECODE_STEPS
from farthing.report.sampling_cost import ROOM, SamplingCost, sampling_cost
from farthing.report.speed import (
    HASHED_LENGTHS,
    PAGE_SIZE,
    Bench,
    Work,
    best_limits,
    default_works,
    fixed_prompts,
    hash_of,
    measure_speed,
    page_tables,
    prefill,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "qwen3"
WORKS = (Work("decode", 1, 16), Work("decode", 1, 256), Work("decode", 8, 16), Work("decode", 8, 16, True))


def bench(num_threads: int = 1, product: str = "int8", weights: str = "q8_0") -> Bench:
    return Bench(load_model(GOLDEN, weights=weights), WORKS, product, num_threads, "q8")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.report.speed.MIN_S", 0)
    monkeypatch.setattr(kernels, "probe", lambda *_, **__: Limits(10.0, 100.0, 200.0))


@pytest.mark.parametrize("product", ["f32", "int8"])
def test_the_hash_does_not_depend_on_threads_or_on_what_ran_before(product: str) -> None:
    one, three = bench(1, product), bench(3, product)
    expected = one.logits_hash()
    one.row(WORKS[2])
    assert one.logits_hash() == three.logits_hash() == expected


@pytest.mark.parametrize("isa", instruction_sets())
def test_the_hash_does_not_depend_on_how_the_batch_is_split(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = kernels.load
    monkeypatch.setattr(kernels, "load", lambda *args, **kwargs: load(*args, **kwargs, isa=isa))
    measured = bench()
    expected = measured.logits_hash()
    table = np.arange(measured.kv.num_pages, dtype=np.int32)[None]
    for chunk in (7, 64, 512):
        prompts = fixed_prompts(measured.vocab_size)
        rows = [prefill(measured.program, ids, table, chunk=chunk).copy() for ids in prompts]
        assert hash_of(np.concatenate(rows)) == expected


def test_the_hash_tells_other_arithmetic_apart() -> None:
    hashes = {bench(1, product, weights).logits_hash() for product in ("f32", "int8") for weights in ("q8_0", "q4_0")}
    assert len(hashes) == 4


def test_the_hash_is_of_the_bits() -> None:
    assert hash_of(np.array([[1.0, -0.0]], np.float32)) != hash_of(np.array([[1.0, 0.0]], np.float32))
    assert hash_of(np.zeros((0, 0), np.float32)) == "e3b0c44298fc1c14"  # SHA-256 of nothing
    assert [len(ids) for ids in fixed_prompts(300)] == list(HASHED_LENGTHS)


def test_a_shared_prefix_is_in_the_first_sequences_pages_and_nothing_else_is() -> None:
    own = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert page_tables(own, 0).tolist() == own.tolist()
    assert page_tables(own, 2 * PAGE_SIZE).tolist() == [[0, 1, 2, 3], [0, 1, 6, 7], [0, 1, 10, 11]]
    with pytest.raises(AssertionError):
        page_tables(own, PAGE_SIZE + 1)


def test_a_decode_grows_by_a_token_each_step_over_the_pages_it_should_see(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, batches = bench(), []
    run = kernels.run
    monkeypatch.setattr(kernels, "run", lambda program, batch: batches.append(batch) or run(program, batch))
    times = measured.seconds(WORKS[3])
    assert len(times) == DECODE_STEPS
    fill, warm, *steps = batches
    assert (len(fill.token_ids), len(fill.page_tables)) == (16, 1)  # one sequence's, which all share
    assert warm.positions.tolist() == [16] * 8
    assert [batch.positions[0] for batch in steps] == list(range(16, 16 + DECODE_STEPS))
    assert len({row[0] for row in steps[0].page_tables}) == 1
    assert len({row[1] for row in steps[0].page_tables}) == 8


def test_a_context_is_filled_once() -> None:
    measured, lengths = bench(), []
    real = measured.program.run
    measured.program.run = lambda batch: lengths.append(len(batch.token_ids)) or real(batch)  # type: ignore[method-assign]
    measured.fill(WORKS[0])
    measured.fill(WORKS[2])
    measured.fill(WORKS[1])
    assert lengths == [16, *[16] * 7, 240]


def test_shared_and_own_pages_give_the_same_logits() -> None:
    measured = bench()
    logits = []
    for work in WORKS[2:]:
        measured.fill(work)
        num_shared = 16 if work.is_prefix_shared else 0
        batch = measured.decode_batch(np.arange(8, dtype=np.int32), 16, num_shared)
        logits.append(kernels.run(measured.program, batch).copy())
    np.testing.assert_array_equal(*logits)


def test_rows_hang_together() -> None:
    rows, limits = measure_speed(load_model(GOLDEN), WORKS, "f32", 1, "f16", lambda: None)
    short, long, wide, shared = rows
    assert long.gb_s / long.tok_s > short.gb_s / short.tok_s
    assert long.gop_s / long.tok_s > short.gop_s / short.tok_s  # attention
    assert wide.gop_s / wide.tok_s == pytest.approx(short.gop_s / short.tok_s)
    assert shared.gb_s / shared.tok_s < wide.gb_s / wide.tok_s < short.gb_s / short.tok_s
    assert limits == Limits(10.0, 100.0, 200.0)
    for row in rows:
        assert row.percent_of_limit == pytest.approx(100 * row.tok_s / row.limit_tok_s)


def test_the_best_of_each_limit_counts() -> None:
    assert best_limits([Limits(1, 5, 3), Limits(2, 4, 3)]) == Limits(2, 5, 3)


def test_the_default_works_are_those_that_fit() -> None:
    assert len(default_works(8192)) == 6
    assert default_works(512) == (Work("prefill", 1, 512), Work("decode", 1, 0), Work("decode", 16, 32))
    with pytest.raises(CapacityError, match="context is 16 tokens"):
        default_works(16)


def test_sampling_is_compared_with_choosing_greedily_in_the_same_steps() -> None:
    assert SamplingCost(16, 1.0, 0.95, forward_s=0.018, greedy_s=0.002, sampled_s=0.003).percent == pytest.approx(5)
    found = sampling_cost(Bench(load_model(GOLDEN), (ROOM,), "f32", 1, "f16"), num_steps=4)
    assert min(found.forward_s, found.greedy_s, found.sampled_s) > 0

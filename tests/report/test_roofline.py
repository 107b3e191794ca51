"""What a piece of work needs, counted by hand, and the limit that follows."""

import numpy as np
import pytest

from farthing.kernels import Limits
from farthing.kernels.plan import Attention, Head, KVSpec, Linear, Plan, QTensor, Take, View
from farthing.report.roofline import CHUNK, DECODE_STEPS, Counts, Need, Work

LIMITS = Limits(read_gb_s=10, f32_gflop_s=100, int8_gop_s=200)
OWN = (DECODE_STEPS + 1) / 2  # tokens that a decode's middle step finds of its own, itself counted


def tensor(format: str, rows: int, cols: int, num_bytes: int) -> QTensor:
    return QTensor(format, rows, cols, np.zeros(num_bytes, np.uint8))


def counts(*, is_last_taken: bool = False, isa: str = "avx2") -> Counts:
    """Two layers of a 4 x 8 matrix in 4 bits with queries of width 16, and a head of 10 x 8 kept in float32.
    is_last_taken: the second of them computes the tokens alone whose logits are wanted."""
    x = View("x", 0, 8)
    layer = (
        Linear(x, View("y", 0, 4), ("w",), (None,), product="int8"),
        Attention(0, View("q", 0, 16), View("a", 0, 16), 2, 1.0),
    )
    tensors = {"w": tensor("q4_0", 4, 8, 18), "head": tensor("f32", 10, 8, 320)}
    take = (Take(((x, View("taken", 0, 8)),)),) if is_last_taken else ()
    plan = Plan({}, (*layer, *take, *layer, Head(x, "head", product="int8")), 10, tensors)
    return Counts.of(plan, KVSpec(2, num_kv_heads=1, head_dim=8, num_pages=1, k_codec="f16", v_codec="q8"), isa)


KV_BYTES = 2 * (2 * 8 + 8 + 4)  # two layers; a key in f16, a value in q8 with its scale


def test_a_decode_reads_weights_once_and_every_sequences_keys_and_values() -> None:
    need = counts().need(Work("decode", 4, 100))
    assert need.num_bytes == 2 * 18 + 320 + 4 * (100 + OWN) * KV_BYTES
    keys = 4 * (100 + OWN)
    assert need.int8_ops == 4 * 2 * (2 * 4 * 8) + keys * 2 * (2 * 2 * 16)  # values: two integer products each
    assert need.f32_ops == 4 * (2 * 10 * 8) + keys * 2 * (2 * 16)  # scores
    assert need.ops == need.int8_ops + need.f32_ops
    wide = counts(isa="avx512").need(Work("decode", 4, 100))  # one product each
    assert (need.int8_ops - wide.int8_ops, need.f32_ops) == (keys * 2 * (2 * 16), wide.f32_ops)


def test_a_shared_prefix_is_read_once_but_computed_for_each() -> None:
    alone, shared = (counts().need(Work("decode", 4, 96, is_shared)) for is_shared in (False, True))
    assert alone.num_bytes - shared.num_bytes == 3 * 96 * KV_BYTES
    assert (alone.int8_ops, alone.f32_ops) == (shared.int8_ops, shared.f32_ops)


def test_a_prefill_reads_the_layers_once_per_chunk_and_computes_the_head_once() -> None:
    n = CHUNK + 10
    need = counts().need(Work("prefill", 1, n))
    assert need.num_bytes == 2 * (2 * 18) + 320 + (CHUNK + n) * KV_BYTES
    keys = n * (n + 1) / 2  # half of the square of positions
    assert need.int8_ops == n * 2 * (2 * 4 * 8) + keys * 2 * (2 * 2 * 16)
    assert need.f32_ops == 2 * 10 * 8 + keys * 2 * (2 * 16)


def test_behind_take_a_prefill_computes_and_reads_for_its_last_token() -> None:
    n = CHUNK + 10
    need = counts(is_last_taken=True).need(Work("prefill", 1, n))
    assert need.num_bytes == (2 + 1) * 18 + 320 + (CHUNK + n + n) * KV_BYTES / 2
    keys = n * (n + 1) / 2 + n
    assert need.int8_ops == (n + 1) * (2 * 4 * 8) + keys * (2 * 2 * 16)
    assert need.f32_ops == 2 * 10 * 8 + keys * (2 * 16)
    assert counts(is_last_taken=True).need(Work("decode", 4, 100)) == counts().need(Work("decode", 4, 100))
    assert (counts(is_last_taken=True).weight_bytes, counts(is_last_taken=True).kv_bytes) == (2 * 18 + 320, KV_BYTES)


def test_without_integer_products_all_is_float32() -> None:
    x = View("x", 0, 8)
    plan = Plan({}, (Linear(x, x, ("w",), (None,)),), 10, {"w": tensor("q8_0", 8, 32, 272)})
    need = Counts.of(plan, KVSpec(1, 1, 8, 1), "avx2").need(Work("decode", 1, 0))
    assert (need.int8_ops, need.f32_ops) == (0, 2 * 8 * 32)


def test_the_limit_is_the_longer_of_reading_and_computing() -> None:
    reading = Need(num_bytes=20e9, int8_ops=200e9, f32_ops=50e9)
    assert (reading.bytes_s(LIMITS), reading.ops_s(LIMITS)) == (2.0, 1.5)
    assert (reading.limit_s(LIMITS), reading.bound(LIMITS)) == (2.0, "bytes")
    computing = Need(num_bytes=10e9, int8_ops=200e9, f32_ops=50e9)
    assert (computing.limit_s(LIMITS), computing.bound(LIMITS)) == (1.5, "ops")


@pytest.mark.parametrize(("kind", "batch", "context"), [("prefill", 2, 8), ("prefill", 1, 0)])
def test_a_prefill_is_of_one_prompt(kind: str, batch: int, context: int) -> None:
    with pytest.raises(AssertionError):
        Work(kind, batch, context)  # type: ignore[arg-type]

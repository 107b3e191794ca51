"""How fast the arithmetic runs, beside what the machine could do at that moment.

A row is timed on the kernels alone, without tokenizing, scheduling and sampling. Its limit is the lower of two: the
bytes a step must read over the bandwidth, and its multiplications over the arithmetic rate, both probed in this run.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.engine.config import kv_head_bytes
from farthing.kernels import Limits, Program
from farthing.kernels.plan import Batch, Head, KVSpec, Linear, Plan, Product
from farthing.models import Model
from farthing.report.levers import effective_product

__all__ = ["SpeedRow", "Work", "default_works", "measure_speed"]

I32 = npt.NDArray[np.int32]
PAGE_SIZE = 16
CHUNK = 512  # tokens of a prompt in one step, as in the engine
MIN_PROBE_BYTES = 1 << 20
MIN_S = 0.5  # each row is repeated for at least this long


@dataclass(frozen=True)
class Work:
    """prefill: a prompt of `context` tokens, from nothing. decode: one token for each of `batch` sequences, each
    `context` tokens long."""

    kind: Literal["prefill", "decode"]
    batch: int
    context: int


@dataclass(frozen=True)
class SpeedRow:
    """gop_s counts a multiplication and an addition as two, of weights only; gb_s the weights and KV a step reads."""

    work: Literal["prefill", "decode"]
    batch: int
    context: int
    tok_s: float
    gb_s: float
    gop_s: float
    limit_tok_s: float
    percent_of_limit: float


def default_works(max_context: int) -> tuple[Work, ...]:
    """The usual rows, those that fit the model's context."""
    works = [Work("prefill", 1, 512), Work("prefill", 1, 2048)]
    works += [Work("decode", 1, 16), Work("decode", 1, 512), Work("decode", 1, 2048)]
    works += [Work("decode", 4, 16), Work("decode", 8, 16), Work("decode", 16, 16)]
    return tuple(work for work in works if work.context + (work.kind == "decode") <= max_context)


def measure_speed(
    model: Model, works: tuple[Work, ...], product: Product, num_threads: int, codec: str, tick: Callable[[], None]
) -> tuple[list[SpeedRow], Limits]:
    """One row per work; medians of repeated steps. The limits are probed on as many bytes as the weights have."""
    config = model.config
    pages_per_seq = {work: -(-(work.context + 1) // PAGE_SIZE) for work in works}
    num_pages = max(work.batch * pages for work, pages in pages_per_seq.items())
    kv = KVSpec(config.num_layers, config.num_kv_heads, config.head_dim, num_pages, PAGE_SIZE, codec, codec)
    plan = model.plan(product)
    counts = _Counts.of(plan, kv)
    program = kernels.load(plan, kv, num_threads=num_threads)
    limits = kernels.probe(num_threads, max(counts.weight_bytes, MIN_PROBE_BYTES))
    gop_s = limits.int8_gop_s if effective_product(plan, product) == "int8" else limits.f32_gflop_s
    rows = []
    for work in works:
        rows.append(_row(work, counts, _seconds(program, work, pages_per_seq[work], config.vocab_size), limits, gop_s))
        tick()
    return rows, limits


@dataclass(frozen=True)
class _Counts:
    """What a token costs: operations in the layers and in the head, bytes of weights and of a token's K and V."""

    layer_ops: int
    head_ops: int
    weight_bytes: int
    kv_bytes: int

    @classmethod
    def of(cls, plan: Plan, kv: KVSpec) -> "_Counts":
        linear = [plan.tensors[name] for op in plan.ops if isinstance(op, Linear) for name in op.weights]
        head = [plan.tensors[op.weight] for op in plan.ops if isinstance(op, Head)]
        head_bytes = sum(kv_head_bytes(codec, kv.head_dim) for codec in (kv.k_codec, kv.v_codec))
        return cls(
            layer_ops=sum(2 * t.rows * t.cols for t in linear),
            head_ops=sum(2 * t.rows * t.cols for t in head),
            weight_bytes=sum(t.data.nbytes for t in (*linear, *head)),
            kv_bytes=kv.num_layers * kv.num_kv_heads * head_bytes,
        )


def _row(work: Work, counts: _Counts, seconds: float, limits: Limits, gop_s: float) -> SpeedRow:
    if work.kind == "prefill":  # the weights are read once for each chunk, the head is computed once
        num_tokens = work.context
        num_bytes = counts.weight_bytes * -(-work.context // CHUNK)
        ops = counts.layer_ops * num_tokens + counts.head_ops
    else:
        num_tokens = work.batch
        num_bytes = counts.weight_bytes + counts.kv_bytes * work.context * work.batch
        ops = (counts.layer_ops + counts.head_ops) * num_tokens
    limit_s = max(num_bytes / (limits.read_gb_s * 1e9), ops / (gop_s * 1e9))
    return SpeedRow(
        work=work.kind,
        batch=work.batch,
        context=work.context,
        tok_s=num_tokens / seconds,
        gb_s=num_bytes / seconds / 1e9,
        gop_s=ops / seconds / 1e9,
        limit_tok_s=num_tokens / limit_s,
        percent_of_limit=100 * limit_s / seconds,
    )


def _seconds(program: Program, work: Work, num_pages: int, vocab_size: int) -> float:
    """Median seconds of the work, after one pass that is not counted."""
    ids = np.random.default_rng(0).integers(0, vocab_size, work.context + 1).astype(np.int32)  # [context + 1]
    tables = np.arange(work.batch * num_pages, dtype=np.int32).reshape(work.batch, num_pages)  # [batch, num_pages]
    for seq in range(work.batch):
        _prefill(program, ids[: work.context], tables[seq : seq + 1])

    def step() -> None:
        if work.kind == "prefill":
            _prefill(program, ids[: work.context], tables)
        else:
            _decode(program, ids[-1], work, tables)

    step()
    times: list[float] = []
    while sum(times) < MIN_S or len(times) < 3:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _prefill(program: Program, ids: I32, table: I32) -> None:
    for batch in _chunks(ids, table):
        kernels.run(program, batch)


def _chunks(ids: I32, table: I32) -> Iterator[Batch]:
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        is_last = start + CHUNK >= len(ids)
        yield Batch(
            token_ids=part,
            positions=np.arange(start, start + len(part), dtype=np.int32),
            seq_starts=np.array([0, len(part)], np.int32),
            page_tables=table,
            logit_rows=np.array([len(part) - 1] if is_last else [], np.int32),
        )


def _decode(program: Program, token_id: np.int32, work: Work, tables: I32) -> None:
    batch = Batch(
        token_ids=np.full(work.batch, token_id, np.int32),
        positions=np.full(work.batch, work.context, np.int32),
        seq_starts=np.arange(work.batch + 1, dtype=np.int32),
        page_tables=tables,
        logit_rows=np.arange(work.batch, dtype=np.int32),
    )
    kernels.run(program, batch)

"""How fast the arithmetic runs, beside what the machine could do at that moment.

A row is timed on the kernels alone, without tokenizing, scheduling and sampling. Its limit (`roofline.py`) follows from
what the machine is measured to read and to multiply just before and just after the row.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from farthing import kernels
from farthing.engine.config import check_experts_folder
from farthing.errors import CapacityError
from farthing.kernels import Limits, Program
from farthing.kernels.codecs import parse_codecs
from farthing.kernels.plan import Batch, KVSpec, Product
from farthing.models import Model
from farthing.report.roofline import CHUNK, DECODE_STEPS, Counts, Work

__all__ = ["Bench", "SpeedRow", "Work", "best_limits", "default_works", "hash_of", "measure_speed"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
PAGE_SIZE = 16
MIN_PROBE_BYTES = 1 << 20
MIN_S = 0.5  # each row is repeated for at least this long
HASHED_LENGTHS = (1, 40, 300)  # tokens of the sequences behind the hash; the longest crosses a segment of attention


@dataclass(frozen=True)
class SpeedRow:
    """gb_s counts the weights and the K and V that a step reads; gop_s counts a multiplication and an addition as two.

    `bound` says whether reading or computing sets the limit.
    """

    work: Literal["prefill", "decode"]
    batch: int
    context: int
    is_prefix_shared: bool
    tok_s: float
    gb_s: float
    gop_s: float
    limit_tok_s: float
    percent_of_limit: float
    bound: Literal["bytes", "ops"]
    limits: Limits  # as probed just before and just after


def default_works(max_context: int) -> tuple[Work, ...]:
    """The usual rows, those that fit the model's context. Raises CapacityError where none does."""
    works = [Work("prefill", 1, 512), Work("prefill", 1, 2048), Work("decode", 1, 0), Work("decode", 1, 2048)]
    works += [Work("decode", 16, 32), Work("decode", 16, 512, is_prefix_shared=True)]
    fitting = tuple(work for work in works if work.longest <= max_context)
    if not fitting:
        raise CapacityError(f"the model's context is {max_context} tokens; measuring it takes {DECODE_STEPS} or more")
    return fitting


def measure_speed(
    model: Model, works: Sequence[Work], product: Product, num_threads: int, kv: str, tick: Callable[[], None]
) -> tuple[list[SpeedRow], Limits]:
    """One row per work, and the best limits probed meanwhile; `tick` is called after each row."""
    bench = Bench(model, works, product, num_threads, kv)
    rows = []
    for work in works:
        rows.append(bench.row(work))
        tick()
    return rows, best_limits(row.limits for row in rows)


def best_limits(probed: Iterable[Limits]) -> Limits:
    """The highest of each: what interferes with a probe only makes it slower."""
    read, f32, int8 = zip(*(astuple(limits) for limits in probed), strict=True)
    return Limits(max(read), max(f32), max(int8))


class Bench:
    """A model's program with room for each of `works`; every sequence has pages of its own at a fixed place.

    kv: the codec of keys and values, or two as K/V. Raises InvalidRequest for one that is not known.
    """

    def __init__(
        self,
        model: Model,
        works: Sequence[Work],
        product: Product,
        num_threads: int,
        kv: str,
        experts_folder: Path | None = None,
    ) -> None:
        config, plan = model.config, model.plan(product, last_layer="but for queries")  # as the engine has it
        k_codec, v_codec = parse_codecs(kv)
        self.num_threads, self.vocab_size = num_threads, config.vocab_size
        longest, num_seqs = max(work.longest for work in works), max(work.batch for work in works)
        pages_per_seq = _pages(longest)
        num_pages = max(num_seqs * pages_per_seq, sum(map(_pages, HASHED_LENGTHS)))
        self._tables = np.arange(num_seqs * pages_per_seq, dtype=np.int32).reshape(num_seqs, -1)  # [seqs, pages]
        self.kv = KVSpec(
            num_layers=config.num_layers,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            num_pages=num_pages,
            page_size=PAGE_SIZE,
            k_codec=k_codec,
            v_codec=v_codec,
            windows=config.windows,
        )
        check_experts_folder(model, experts_folder)
        self.program = kernels.load(plan, self.kv, num_threads=num_threads, experts_folder=experts_folder)
        self._longest = longest
        self.counts = Counts.of(plan, self.kv, self.program.isa)
        self._ids = np.random.default_rng(0).integers(0, self.vocab_size, longest).astype(np.int32)  # [longest]
        self._num_filled = [0] * num_seqs  # tokens that each sequence has K and V of

    def row(self, work: Work) -> SpeedRow:
        """The median of repeated prefills, or of a decode's repeated steps."""
        before = self.probe()
        seconds = statistics.median(self.seconds(work))
        limits = best_limits([before, self.probe()])
        need = self.counts.need(work)
        limit_s = need.limit_s(limits)
        return SpeedRow(
            work=work.kind,
            batch=work.batch,
            context=work.context,
            is_prefix_shared=work.is_prefix_shared,
            tok_s=work.num_tokens / seconds,
            gb_s=need.num_bytes / seconds / 1e9,
            gop_s=need.ops / seconds / 1e9,
            limit_tok_s=work.num_tokens / limit_s,
            percent_of_limit=100 * limit_s / seconds,
            bound=need.bound(limits),
            limits=limits,
        )

    def kv_cost(self) -> dict[str, int]:
        """Bytes of keys and values: of a token, and of the longest sequence measured, those too that no layer reads
        again because its window is past them."""
        return {
            "kv_bytes_per_token": self.kv.token_bytes,
            "kv_tokens": self._longest,
            "kv_bytes": self.kv.token_bytes * self._longest,
            "kv_unread_bytes": self.kv.unread_bytes(self._longest),
        }

    def seconds(self, work: Work) -> list[float]:
        """Seconds of each repetition (of a decode: of each of its steps), MIN_S in all or more; a first one is not
        counted."""
        self.fill(work)
        self.repeat(work, 1)
        times: list[float] = []
        while not times or sum(times) < MIN_S:
            times += self.repeat(work)
        return times

    def repeat(self, work: Work, num_steps: int = DECODE_STEPS) -> list[float]:
        """Seconds of one prefill, or of each step of a decode whose context is there (`fill`)."""
        if work.kind == "prefill":
            return [_timed(lambda: prefill(self.program, self._ids[: work.context], self._tables[:1]))]
        token_ids = np.full(work.batch, self._ids[0], np.int32)
        num_shared = work.context if work.is_prefix_shared else 0
        batches = [self.decode_batch(token_ids, work.context + step, num_shared) for step in range(num_steps)]
        return [_timed(lambda batch=batch: kernels.run(self.program, batch)) for batch in batches]  # type: ignore[misc]

    def fill(self, work: Work) -> None:
        """Compute the K and V that a decode finds, where they are not there yet."""
        if work.kind == "prefill":
            return
        for seq in range(1 if work.is_prefix_shared else work.batch):
            first = self._num_filled[seq]
            prefill(self.program, self._ids[first : work.context], self._tables[seq : seq + 1], first)
            self._num_filled[seq] = max(first, work.context)

    def decode_batch(self, token_ids: I32, position: int, num_shared: int = 0) -> Batch:
        """One token for each of the first sequences, all at `position`; they share their first num_shared tokens."""
        n = len(token_ids)
        return Batch(
            token_ids=token_ids,
            positions=np.full(n, position, np.int32),
            seq_starts=np.arange(n + 1, dtype=np.int32),
            page_tables=page_tables(self._tables[:n], num_shared),
            logit_rows=np.arange(n, dtype=np.int32),
        )

    def logits_hash(self) -> str:
        """A fingerprint of the arithmetic: the same for any number of threads and any way to batch, on one instruction
        set. It covers a ragged batch of fixed prompts, the last token of each; their pages are filled anew after."""
        prompts = fixed_prompts(self.vocab_size)
        ends = np.cumsum([len(ids) for ids in prompts]).astype(np.int32)  # [3]
        firsts = np.cumsum([0, *map(_pages, HASHED_LENGTHS)])  # [4]: pages side by side
        tables = (firsts[:-1, None] + np.arange(_pages(max(HASHED_LENGTHS)))).astype(np.int32)  # [3, pages]
        batch = Batch(
            token_ids=np.concatenate(prompts),
            positions=np.concatenate([np.arange(len(ids), dtype=np.int32) for ids in prompts]),
            seq_starts=np.concatenate([np.zeros(1, np.int32), ends]),
            page_tables=tables,
            logit_rows=ends - np.int32(1),
        )
        self._num_filled = [0] * len(self._num_filled)
        return hash_of(kernels.run(self.program, batch))

    def probe(self) -> Limits:
        """What the machine can do now, read from as many bytes as the weights have."""
        return kernels.probe(self.num_threads, max(self.counts.weight_bytes, MIN_PROBE_BYTES), passes=3)


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_SIZE)


def _timed(body: Callable[[], object]) -> float:
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def fixed_prompts(vocab_size: int) -> list[I32]:
    """Prompts of HASHED_LENGTHS tokens, the same everywhere."""
    return [(np.arange(n, dtype=np.int32) * 7919 + 13) % np.int32(vocab_size) for n in HASHED_LENGTHS]


def hash_of(logits: F32) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the logits' bits (float32, little-endian)."""
    return hashlib.sha256(logits.astype("<f4").tobytes()).hexdigest()[:16]


def page_tables(own: I32, num_shared: int) -> I32:
    """Page tables [batch, pages] of sequences that have the pages `own` [batch, pages] to themselves, but for their
    first num_shared tokens (whole pages), which are in the first one's."""
    assert num_shared % PAGE_SIZE == 0
    tables = own.copy()
    tables[:, : num_shared // PAGE_SIZE] = own[0, : num_shared // PAGE_SIZE]
    return tables


def prefill(program: Program, ids: I32, table: I32, first: int = 0, chunk: int = CHUNK) -> F32:
    """Runs ids [n] at positions from `first` on, a chunk at a time; the logits [1, V] of the last one
    (of no ids: [0, 0])."""
    logits = np.zeros((0, 0), np.float32)
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        is_last = start + chunk >= len(ids)
        batch = Batch(
            token_ids=part,
            positions=np.arange(first + start, first + start + len(part), dtype=np.int32),
            seq_starts=np.array([0, len(part)], np.int32),
            page_tables=table,
            logit_rows=np.array([len(part) - 1] if is_last else [], np.int32),
        )
        logits = kernels.run(program, batch)
    return logits

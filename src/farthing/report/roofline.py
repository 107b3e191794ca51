"""The least time that a piece of work can take on a machine: the longer of reading its bytes and doing its operations.

An operation is a multiplication or an addition. The model follows Williams, Waterman and Patterson, "Roofline" (2009),
with one rate for exact integer products and one for float32. It leaves out what is small beside the rest: norms,
rotations, activations, the embedding of a token, and writing. Of experts a step reads as many as its tokens would take
if each chose by lot.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from farthing.engine import EngineConfig
from farthing.kernels import Limits
from farthing.kernels.codecs import CODECS
from farthing.kernels.plan import Attention, Head, KVSpec, Linear, Moe, Op, Plan, Product, Take
from farthing.report.levers import has_codes

__all__ = ["CHUNK", "DECODE_STEPS", "Counts", "Need", "Work"]

CHUNK = EngineConfig().max_num_batched_tokens  # tokens of a prompt in one step
DECODE_STEPS = 32  # a decode is measured over as many steps, its context growing by one token in each
OWN = (DECODE_STEPS + 1) / 2  # tokens of a decode's sequence behind its context, the mean over the steps


@dataclass(frozen=True)
class Work:
    """prefill: a prompt of `context` tokens, from nothing. decode: one token for each of `batch` sequences, each
    `context` tokens long at the first step.

    is_prefix_shared: the sequences hold the same pages for the first `context` tokens, which must fill them.
    """

    kind: Literal["prefill", "decode"]
    batch: int
    context: int
    is_prefix_shared: bool = False

    def __post_init__(self) -> None:
        assert self.kind == "decode" or (self.batch == 1 and self.context >= 1 and not self.is_prefix_shared)

    @property
    def num_tokens(self) -> int:
        """Tokens that one repetition computes."""
        return self.context if self.kind == "prefill" else self.batch

    @property
    def longest(self) -> int:
        """Tokens of a sequence at the end."""
        return self.context + (DECODE_STEPS if self.kind == "decode" else 0)


@dataclass(frozen=True)
class Need:
    """What a prefill, or one step of a decode, must read and compute."""

    num_bytes: float
    int8_ops: float
    f32_ops: float

    @property
    def ops(self) -> float:
        return self.int8_ops + self.f32_ops

    def bytes_s(self, limits: Limits) -> float:
        return self.num_bytes / (limits.read_gb_s * 1e9)

    def ops_s(self, limits: Limits) -> float:
        return self.int8_ops / (limits.int8_gop_s * 1e9) + self.f32_ops / (limits.f32_gflop_s * 1e9)

    def limit_s(self, limits: Limits) -> float:
        return max(self.bytes_s(limits), self.ops_s(limits))

    def bound(self, limits: Limits) -> Literal["bytes", "ops"]:
        """Which of the two is the limit."""
        return "bytes" if self.bytes_s(limits) >= self.ops_s(limits) else "ops"


@dataclass(frozen=True)
class _Products:
    """Matrices: their bytes, and the operations of one token through them in each kind of arithmetic."""

    num_bytes: int = 0
    int8_ops: int = 0
    f32_ops: int = 0

    @classmethod
    def of(cls, plan: Plan, names: list[tuple[str, Product]]) -> "_Products":
        num_bytes = int8_ops = f32_ops = 0
        for name, product in names:
            tensor = plan.tensors[name]
            num_bytes += tensor.data.nbytes
            if product == "int8" and has_codes(tensor.format):
                int8_ops += 2 * tensor.rows * tensor.cols
            else:
                f32_ops += 2 * tensor.rows * tensor.cols
        return cls(num_bytes, int8_ops, f32_ops)


@dataclass(frozen=True)
class _Attending:
    """Layers that see as far: what one token costs there for each key that it attends to."""

    window: int | None
    int8_ops: int  # a multiplication and an addition each for score and value, in every product that codes take
    f32_ops: int
    kv_bytes: int  # of one token's K and V

    @classmethod
    def of(cls, window: int | None, ops: list[Attention], kv: KVSpec, num_products: int) -> "_Attending":
        is_code = [CODECS[codec].bits <= 8 for codec in (kv.k_codec, kv.v_codec)]
        of_side = sum(2 * op.q.width for op in ops)  # scores, or values
        kv_bytes = sum(kv.layer_bytes(op.layer) for op in ops)
        return cls(window, num_products * of_side * sum(is_code), of_side * (2 - sum(is_code)), kv_bytes)

    def num_keys(self, work: Work, is_behind: bool) -> float:
        """That all tokens of a work attend to together. is_behind: of a prompt only the last one does."""
        if work.kind == "decode":
            return work.batch * self._seen(work.context + OWN)
        if is_behind:
            return self._seen(work.context)
        n, full = work.context, min(self.window or work.context, work.context)
        return full * (full + 1) / 2 + (n - full) * full  # each sees those before it, at most a window of them

    def num_tokens_read(self, work: Work, is_behind: bool) -> float:
        """Whose K and V are read: by each chunk those before it and its own, of a shared prefix once."""
        if work.kind == "prefill" and is_behind:
            return self._seen(work.context)
        if work.kind == "decode":
            of_context = self._seen(work.context + OWN) - self._seen(OWN)
            return work.batch * self._seen(OWN) + of_context * (1 if work.is_prefix_shared else work.batch)
        starts = range(0, work.context, CHUNK)
        sizes = [(start, min(CHUNK, work.context - start)) for start in starts]
        return sum(size + (start if self.window is None else min(start, self.window - 1)) for start, size in sizes)

    def _seen(self, num_keys: float) -> float:
        return num_keys if self.window is None else min(num_keys, self.window)


@dataclass(frozen=True)
class _Part:
    """What a token costs in some of a plan's operations: in matrices, in experts, and in attention. is_behind: they
    stand behind Take, so that they compute only the tokens whose logits are wanted."""

    is_behind: bool
    layers: _Products
    experts: _Products  # all of them
    taken_share: float  # of the experts, by one token
    attention: tuple[_Attending, ...]

    @classmethod
    def of(cls, plan: Plan, ops: Sequence[Op], kv: KVSpec, num_products: int, *, is_behind: bool) -> "_Part":
        moes = [op for op in ops if isinstance(op, Moe)]
        attention = sorted((op for op in ops if isinstance(op, Attention)), key=lambda op: op.window or 0)
        return cls(
            is_behind,
            layers=_Products.of(plan, [(w, op.product) for op in ops if isinstance(op, Linear) for w in op.weights]),
            experts=_Products.of(plan, [(w, op.product) for op in moes for w in (*op.gates, *op.ups, *op.downs)]),
            taken_share=sum(op.rule.top_k for op in moes) / (sum(len(op.gates) for op in moes) or 1),
            attention=tuple(
                _Attending.of(window, list(same), kv, num_products)
                for window, same in groupby(attention, lambda op: op.window)
            ),
        )

    @property
    def weight_bytes(self) -> int:
        return self.layers.num_bytes + round(self.experts.num_bytes * self.taken_share)

    def need(self, work: Work) -> Need:
        """Weights are read once per step, of experts those that its tokens take."""
        steps = [work.batch]
        if work.kind == "prefill" and not self.is_behind:
            steps = [min(CHUNK, work.context - start) for start in range(0, work.context, CHUNK)]
        num_tokens = sum(steps)
        read_share = sum(1 - (1 - self.taken_share) ** num for num in steps)  # of experts, by all steps
        keys = [(part, part.num_keys(work, self.is_behind)) for part in self.attention]
        layers, experts, taken = self.layers, self.experts, self.taken_share * num_tokens
        return Need(
            num_bytes=layers.num_bytes * len(steps)
            + experts.num_bytes * read_share
            + sum(part.kv_bytes * part.num_tokens_read(work, self.is_behind) for part in self.attention),
            int8_ops=layers.int8_ops * num_tokens
            + experts.int8_ops * taken
            + sum(part.int8_ops * num_keys for part, num_keys in keys),
            f32_ops=layers.f32_ops * num_tokens
            + experts.f32_ops * taken
            + sum(part.f32_ops * num_keys for part, num_keys in keys),
        )


@dataclass(frozen=True)
class Counts:
    """What a piece of work costs: in the layers of all tokens, in those of the tokens whose logits are wanted, and in
    the head."""

    parts: tuple[_Part, _Part]
    head: _Products

    @classmethod
    def of(cls, plan: Plan, kv: KVSpec, isa: str) -> "Counts":
        """isa: the instruction set that runs it. Codes of keys and values are met by 15 bits, which takes two integer
        products, with AVX-512 by 8."""
        num_products = 1 if isa == "avx512" else 2
        taken = next((number for number, op in enumerate(plan.ops) if isinstance(op, Take)), len(plan.ops))
        before, behind = plan.ops[:taken], plan.ops[taken:]
        return cls(
            (
                _Part.of(plan, before, kv, num_products, is_behind=False),
                _Part.of(plan, behind, kv, num_products, is_behind=True),
            ),
            _Products.of(plan, [(op.weight, op.product) for op in plan.ops if isinstance(op, Head)]),
        )

    @property
    def weight_bytes(self) -> int:
        """That one token alone reads."""
        return self.head.num_bytes + sum(part.weight_bytes for part in self.parts)

    @property
    def kv_bytes(self) -> int:
        """Of one token's K and V in all layers."""
        return sum(attending.kv_bytes for part in self.parts for attending in part.attention)

    def need(self, work: Work) -> Need:
        """Of a whole prefill: weights once per chunk, what stands behind Take and the head for the last token only. Of
        a decode's middle step: weights once, every sequence's K and V, those of a shared prefix once."""
        needs = [part.need(work) for part in self.parts]
        return Need(
            num_bytes=self.head.num_bytes + sum(need.num_bytes for need in needs),
            int8_ops=self.head.int8_ops * work.batch + sum(need.int8_ops for need in needs),
            f32_ops=self.head.f32_ops * work.batch + sum(need.f32_ops for need in needs),
        )

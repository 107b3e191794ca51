"""The least time that a piece of work can take on a machine: the longer of reading its bytes and doing its operations.

An operation is a multiplication or an addition. The model follows Williams, Waterman and Patterson, "Roofline" (2009),
with one rate for exact integer products and one for float32. It leaves out what is small beside the rest: norms,
rotations, activations, the embedding of a token, and writing.
"""

from dataclasses import dataclass
from typing import Literal

from farthing.engine import EngineConfig
from farthing.kernels import Limits
from farthing.kernels.codecs import CODECS
from farthing.kernels.plan import Attention, Head, KVSpec, Linear, Plan
from farthing.report.levers import has_codes

__all__ = ["CHUNK", "DECODE_STEPS", "Counts", "Need", "Work"]

CHUNK = EngineConfig().max_num_batched_tokens  # tokens of a prompt in one step
DECODE_STEPS = 32  # a decode is measured over as many steps, its context growing by one token in each


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
    def of(cls, plan: Plan, ops: list[Linear] | list[Head]) -> "_Products":
        num_bytes = int8_ops = f32_ops = 0
        for op in ops:
            for name in op.weights if isinstance(op, Linear) else (op.weight,):
                tensor = plan.tensors[name]
                num_bytes += tensor.data.nbytes
                if op.product == "int8" and has_codes(tensor.format):
                    int8_ops += 2 * tensor.rows * tensor.cols
                else:
                    f32_ops += 2 * tensor.rows * tensor.cols
        return cls(num_bytes, int8_ops, f32_ops)


@dataclass(frozen=True)
class Counts:
    """What a token costs: in the layers' matrices, in the head, and for each key that it attends to."""

    layers: _Products
    head: _Products
    attention_int8_ops: int  # per token and key, all layers: a multiplication and an addition each for score and value;
    attention_f32_ops: int  # codes of 8 bits and less are met by 15 bits, which takes two integer products
    kv_bytes: int  # of one token's K and V, all layers

    @classmethod
    def of(cls, plan: Plan, kv: KVSpec) -> "Counts":
        is_code = [CODECS[codec].bits <= 8 for codec in (kv.k_codec, kv.v_codec)]
        ops_of_side = sum(2 * op.q.width for op in plan.ops if isinstance(op, Attention))  # scores, or values
        return cls(
            layers=_Products.of(plan, [op for op in plan.ops if isinstance(op, Linear)]),
            head=_Products.of(plan, [op for op in plan.ops if isinstance(op, Head)]),
            attention_int8_ops=2 * ops_of_side * sum(is_code),
            attention_f32_ops=ops_of_side * (2 - sum(is_code)),
            kv_bytes=kv.token_bytes,
        )

    @property
    def weight_bytes(self) -> int:
        return self.layers.num_bytes + self.head.num_bytes

    def need(self, work: Work) -> Need:
        """Of a whole prefill: weights once per chunk, the head for the last token only. Of a decode's middle step:
        weights once, every sequence's K and V, those of a shared prefix once."""
        if work.kind == "prefill":
            ends = [min(start + CHUNK, work.context) for start in range(0, work.context, CHUNK)]
            num_logit_rows, num_passes = 1, len(ends)
            num_kv_tokens: float = sum(ends)  # each chunk reads those before it and its own
            num_keys: float = work.context * (work.context + 1) / 2  # of all tokens together: each sees those before it
        else:
            own = (DECODE_STEPS + 1) / 2  # the mean over the steps, the token itself counted
            num_logit_rows, num_passes = work.batch, 1
            num_kv_tokens = work.batch * own + work.context * (1 if work.is_prefix_shared else work.batch)
            num_keys = work.batch * (work.context + own)
        layers, head = self.layers, self.head
        return Need(
            num_bytes=layers.num_bytes * num_passes + head.num_bytes + self.kv_bytes * num_kv_tokens,
            int8_ops=layers.int8_ops * work.num_tokens
            + head.int8_ops * num_logit_rows
            + self.attention_int8_ops * num_keys,
            f32_ops=layers.f32_ops * work.num_tokens
            + head.f32_ops * num_logit_rows
            + self.attention_f32_ops * num_keys,
        )

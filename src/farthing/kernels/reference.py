"""The plan interpreted in NumPy: the oracle that native kernels are compared with, and the fallback without them.

Buffers are float32 as in native code, but inside an operation sums run in float64 and are rounded once at its end. So
a row's result does not depend on what else is in the batch (BLAS sums in an order that depends on shapes; in float64
the difference is far below float32's last place), and an error found against this file is the other side's.
"""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, format_of
from farthing.kernels.plan import (
    Add,
    Attention,
    Batch,
    Embed,
    Head,
    KVSpec,
    Linear,
    Op,
    Plan,
    Product,
    QTensor,
    RmsNorm,
    Rope,
    StoreKV,
    SwiGLU,
    View,
)

__all__ = ["ReferenceProgram", "quantize_activations"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ACTIVATION_BLOCK = 32  # columns that share a scale in the int8 product
WEIGHT_ROWS = 2048  # rows of a weight widened to float64 at a time
QUERY_CODES = np.float32(127 * 128)  # of the largest of a query that meets keys in q8
QUERY_ROWS = 256  # queries of a sequence whose scores are held at a time
# Where the values of a page are kept, and what they are rounded to on their way there.
CODECS: dict[str, type[np.floating]] = {"f32": np.float32, "f16": np.float16, "q8": np.float32}


class ReferenceProgram:
    """Runs `plan` on a pool of pages shaped by `kv`. Weights are unpacked to float32 when first used, and kept."""

    isa = "reference"

    def __init__(self, plan: Plan, kv: KVSpec) -> None:
        self.plan = plan
        self.kv = kv
        shape = (kv.num_pages, kv.num_layers, kv.page_size, kv.num_kv_heads, kv.head_dim)
        k_codec, v_codec = _codec(kv.k_codec), _codec(kv.v_codec)
        k_bytes, v_bytes = (math.prod(shape[1:]) * np.dtype(codec).itemsize for codec in (k_codec, v_codec))
        # Page p is one row, as in native code; its keys and values are seen layer first: [L, pages, slots, heads, d].
        self.pages = np.zeros((kv.num_pages, k_bytes + v_bytes), np.uint8)  # [num_pages, page_bytes]
        self.k_pages = self.pages[:, :k_bytes].view(k_codec).reshape(shape).swapaxes(0, 1)
        self.v_pages = self.pages[:, k_bytes:].view(v_codec).reshape(shape).swapaxes(0, 1)
        self._weights: dict[str, F32] = {}

    def run(self, batch: Batch) -> F32:
        """Logits [L, V] of batch.logit_rows; the pages then hold the batch's keys and values."""
        run = _Run(self, batch)
        for op in self.plan.ops:
            run.do(op)
        return run.logits

    @property
    def weight_bytes(self) -> int:
        return sum(w.nbytes for w in self._weights.values())

    @property
    def kv_bytes(self) -> int:
        return self.k_pages.nbytes + self.v_pages.nbytes

    def weight(self, name: str) -> F32:
        """The tensor as float32 [rows, cols]."""
        if name not in self._weights:
            t = self.plan.tensors[name]
            self._weights[name] = dequantize(t.data, t.format, t.rows, t.cols)
        return self._weights[name]


class _Run:
    """One batch on its way through the plan: its buffers, and one method per operation."""

    def __init__(self, program: ReferenceProgram, batch: Batch) -> None:
        self.program = program
        self.batch = batch
        num_tokens = len(batch.token_ids)
        self.buffers = {name: np.zeros((num_tokens, width), np.float32) for name, width in program.plan.buffers.items()}
        self.logits = np.zeros((len(batch.logit_rows), program.plan.vocab_size), np.float32)

    def do(self, op: Op) -> None:
        match op:
            case Embed():
                self.at(op.dst)[:] = np.float32(op.scale) * self.program.weight(op.weight)[self.batch.token_ids]
            case RmsNorm():
                self.rms_norm(op)
            case Linear():
                self.linear(op)
            case Rope():
                self.rope(op)
            case StoreKV():
                self.store_kv(op)
            case Attention():
                self.attention(op)
            case SwiGLU():
                gate = self.at(op.gate).astype(np.float64)
                with np.errstate(over="ignore"):  # exp(-gate) may be inf: the quotient is then 0, as it should be
                    self.at(op.dst)[:] = gate / (1 + np.exp(-gate)) * self.at(op.up)
            case Add():
                self.at(op.dst)[:] += self.at(op.src)
            case Head():
                x = self.at(op.src)[self.batch.logit_rows]  # [L, hidden_size]
                self.logits = self.product(x, op.weight, op.bias, op.product).astype(np.float32)

    def at(self, view: View) -> F32:
        """The columns of a view [T, width], writable."""
        return self.buffers[view.buffer][:, view.offset : view.offset + view.width]

    def rms_norm(self, op: RmsNorm) -> None:
        src = self.at(op.src)
        x = src.astype(np.float64).reshape(len(src), -1, op.group)  # [T, groups, group]
        x /= np.sqrt(np.mean(x * x, axis=2, keepdims=True) + op.eps)
        self.at(op.dst)[:] = (x * self.program.weight(op.weight)).reshape(src.shape)

    def linear(self, op: Linear) -> None:
        x, dst = self.at(op.src), self.at(op.dst)
        parts = [self.product(x, w, b, op.product) for w, b in zip(op.weights, op.biases, strict=True)]
        y = np.concatenate(parts, axis=1)  # [T, sum of widths]
        dst[:] = dst + y if op.is_added else y

    def product(self, x: F32, weight: str, bias: str | None, product: Product) -> F64:
        """x [n, cols] @ weight.T + bias -> [n, rows], in float64."""
        if product == "int8" and _has_codes(self.program.plan.tensors[weight]):
            wide = quantize_activations(x)
        else:
            wide = x.astype(np.float64)
        w = self.program.weight(weight)
        y = np.empty((len(x), len(w)), np.float64)
        for i in range(0, len(w), WEIGHT_ROWS):
            y[:, i : i + WEIGHT_ROWS] = wide @ w[i : i + WEIGHT_ROWS].T.astype(np.float64)
        return y if bias is None else y + self.program.weight(bias)

    def rope(self, op: Rope) -> None:
        buf = self.at(op.buf)
        inv_freq = self.program.weight(op.inv_freq)[0]  # [head_dim / 2]
        angles = self.batch.positions.astype(np.float32)[:, None, None] * inv_freq  # [T, 1, head_dim / 2], float32
        cos, sin = (op.scale * f(angles.astype(np.float64)) for f in (np.cos, np.sin))
        heads = buf.reshape(len(buf), -1, op.head_dim).astype(np.float64)  # a copy
        half = op.head_dim // 2
        first = slice(0, half) if op.style == "half" else slice(0, None, 2)
        second = slice(half, None) if op.style == "half" else slice(1, None, 2)
        a, b = heads[..., first], heads[..., second]
        turned = np.empty_like(heads)
        turned[..., first] = a * cos - b * sin
        turned[..., second] = b * cos + a * sin
        buf[:] = turned.reshape(buf.shape)

    def store_kv(self, op: StoreKV) -> None:
        kv, batch = self.program.kv, self.batch
        seqs = np.repeat(np.arange(len(batch.seq_starts) - 1), np.diff(batch.seq_starts))  # [T]
        pages = batch.page_tables[seqs, batch.positions // kv.page_size]
        slots = batch.positions % kv.page_size
        shape = (-1, kv.num_kv_heads, kv.head_dim)
        with np.errstate(over="ignore"):  # beyond float16 is inf there, as in native code
            keys = _rotated(self.at(op.k).reshape(shape), kv.k_codec)
            self.program.k_pages[op.layer, pages, slots] = _encode(keys, kv.k_codec)
            self.program.v_pages[op.layer, pages, slots] = _encode(self.at(op.v).reshape(shape), kv.v_codec)

    def attention(self, op: Attention) -> None:
        starts = self.batch.seq_starts
        for seq, (start, end) in enumerate(pairwise(starts)):
            for first in range(start, end, QUERY_ROWS):
                self.attend(op, seq, slice(first, min(first + QUERY_ROWS, end)))

    def attend(self, op: Attention, seq: int, rows: slice) -> None:
        """Attention of some rows of one sequence, over everything it has up to the last of them."""
        kv, positions = self.program.kv, self.batch.positions[rows]  # [n], ascending
        num_keys = int(positions[-1]) + 1
        pages = self.batch.page_tables[seq, : -(-num_keys // kv.page_size)]

        def gather(pool: npt.NDArray[np.floating]) -> F64:  # [kv heads, keys, head_dim]
            tokens = pool[op.layer, pages].reshape(-1, kv.num_kv_heads, kv.head_dim)
            return np.asarray(tokens[:num_keys].transpose(1, 0, 2), np.float64)

        keys, values = gather(self.program.k_pages), gather(self.program.v_pages)
        group = op.num_heads // kv.num_kv_heads  # query heads that share a kv head
        q = self.at(op.q)[rows].reshape(-1, kv.num_kv_heads, group, kv.head_dim) * np.float32(op.scale)
        if kv.k_codec == "q8":
            q = _rounded(_rotated(q, kv.k_codec), QUERY_CODES)
        scores = q.transpose(1, 2, 0, 3).astype(np.float64) @ keys[:, None].swapaxes(2, 3)  # [kv heads, group, n, keys]
        scores[..., np.arange(num_keys) > positions[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        weights /= weights.sum(axis=3, keepdims=True)
        attended = weights @ values[:, None]  # [kv heads, group, n, head_dim]
        self.at(op.dst)[rows] = attended.transpose(2, 0, 1, 3).reshape(len(positions), -1)


def quantize_activations(x: F32) -> F64:
    """x [T, cols] as its 8-bit codes say it: per block of 32 columns, scale = max|x| / 127, codes rounded half to even.

    In float64 the products of codes are exact, so multiplying these values is multiplying the codes and scaling after.
    """
    blocks = x.reshape(len(x), -1, ACTIVATION_BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)  # [T, blocks, 1] float32
    # By the reciprocal, as native code does: a quotient would round a few codes the other way.
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
    codes = np.rint(blocks * inverse)
    values: F64 = np.multiply(codes, largest / np.float32(127), dtype=np.float64).reshape(x.shape)
    return values


def _encode(heads: F32, codec: str) -> F32:
    """heads [..., head_dim] as the codec keeps them."""
    return _rounded(heads, np.float32(127)) if codec == "q8" else heads


def _rounded(heads: F32, most: np.float32) -> F32:
    """heads [..., head_dim] as whole multiples of a scale of their own, at most `most` of them."""
    largest = np.abs(heads).max(axis=-1, keepdims=True)  # [..., 1]
    inverse = np.divide(most, largest, out=np.zeros_like(largest), where=largest > 1e-30)
    values: F32 = np.rint(heads * inverse) * (largest / most)
    return values


def _rotated(heads: F32, codec: str) -> F32:
    """heads [..., head_dim] as q8 keeps keys: each block of the largest power of two that divides head_dim through the
    orthonormal Walsh-Hadamard transform. Other codecs keep them as they are."""
    if codec != "q8":
        return heads
    head_dim = heads.shape[-1]
    size = head_dim & -head_dim
    signs = np.ones((1, 1))  # [size, size]
    while len(signs) < size:
        signs = np.block([[signs, signs], [signs, -signs]])
    rotated = heads.reshape(*heads.shape[:-1], -1, size) @ (signs / np.sqrt(size))
    return np.asarray(rotated.reshape(heads.shape), np.float32)


def _has_codes(tensor: QTensor) -> bool:
    return format_of(tensor.format).block_size > 1


def _codec(name: str) -> type[np.floating]:
    if name not in CODECS:
        raise InvalidRequest(f"KV codec {name!r} is unknown; allowed: {', '.join(CODECS)}")
    return CODECS[name]

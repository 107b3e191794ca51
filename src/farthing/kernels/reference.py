"""The plan interpreted in NumPy: the oracle that native kernels are compared with, and the fallback without them.

Buffers are float32 as in native code, but inside an operation sums run in float64 and are rounded once at its end. So
a row's result does not depend on what else is in the batch (BLAS sums in an order that depends on shapes; in float64
the difference is far below float32's last place), and an error found against this file is the other side's.
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.codecs import CODECS
from farthing.kernels.formats import dequantize, format_of
from farthing.kernels.gates import route
from farthing.kernels.plan import (
    Add,
    Attention,
    Batch,
    Embed,
    GeGLU,
    Head,
    KVSpec,
    Linear,
    Moe,
    Op,
    Plan,
    Product,
    QTensor,
    RmsNorm,
    Rope,
    SigmoidScale,
    StoreKV,
    SwiGLU,
    Take,
    View,
)
from farthing.kernels.turboquant import code_unit, code_values, hadamard

__all__ = ["ReferenceProgram", "quantize_activations"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

ACTIVATION_BLOCK = 32  # columns that share a scale in the int8 product
WEIGHT_ROWS = 2048  # rows of a weight widened to float64 at a time
QUERY_CODES = np.float32(127 * 128)  # of the largest of a query that meets keys in q8
MOE_ROWS = 512  # tokens whose experts are counted together, as native code groups them
QUERY_ROWS = 256  # queries of a sequence whose scores are held at a time
TURBO_SCALE = np.float32(256)  # TurboQuant's scales are stored in float16 as so many times themselves


class ReferenceProgram:
    """Runs `plan` on a pool of pages shaped by `kv`. Weights are unpacked to float32 when first used, and kept."""

    isa = "reference"

    def __init__(self, plan: Plan, kv: KVSpec) -> None:
        self.plan = plan
        self.kv = kv
        shape = (kv.num_pages, kv.num_layers, kv.page_size, kv.num_kv_heads, kv.head_dim)
        for codec in (kv.k_codec, kv.v_codec):
            if codec not in CODECS:
                raise InvalidRequest(f"KV codec {codec!r} is unknown; allowed: {', '.join(CODECS)}")
        # Page p is one row, as in native code; its keys and values are seen layer first: [L, pages, slots, heads, d].
        # They stand there as the codec says them, rotated where it rotates.
        kinds = [np.dtype(np.float16 if codec == "f16" else np.float32) for codec in (kv.k_codec, kv.v_codec)]
        k_bytes, v_bytes = (math.prod(shape[1:]) * kind.itemsize for kind in kinds)
        self.pages = np.zeros((kv.num_pages, k_bytes + v_bytes), np.uint8)  # [num_pages, page_bytes]
        self.k_pages = self.pages[:, :k_bytes].view(kinds[0]).reshape(shape).swapaxes(0, 1)
        self.v_pages = self.pages[:, k_bytes:].view(kinds[1]).reshape(shape).swapaxes(0, 1)
        self.k_means = np.zeros((kv.num_layers, kv.num_kv_heads, kv.head_dim), np.float32)
        self.sums: F64 | None = None  # of keys, in key_sums' own program
        self.first_summed = 0
        self.num_experts_read, self.num_page_faults = 0, 0
        self._hidden = np.zeros((0, 0), np.float32)
        self._weights: dict[str, F32] = {}

    def run(self, batch: Batch) -> F32:
        """Logits [L, V] of batch.logit_rows; the pages then hold the batch's keys and values."""
        run = _Run(self, batch)
        for op in self.plan.ops:
            if isinstance(op, Take) and not len(batch.logit_rows):
                break
            run.do(op)
        self._hidden = run.hidden
        return run.logits

    def hidden(self) -> F32:
        """What the head read for each row of the last run's logits [L, hidden_size]."""
        return self._hidden

    def key_sums(self, token_ids: npt.NDArray[np.int32], first: int) -> F64:
        """Runs one sequence in pages of its own; the sums of its keys from token `first` on, before coding
        [num_layers, num_kv_heads * head_dim]."""
        kv, n = self.kv, len(token_ids)
        num_pages = -(-n // kv.page_size)
        other = ReferenceProgram(self.plan, replace(kv, num_pages=num_pages))
        other._weights, other.k_means, other.first_summed = self._weights, self.k_means, first
        other.sums = np.zeros((kv.num_layers, kv.num_kv_heads * kv.head_dim))
        positions = np.arange(n, dtype=np.int32)
        pages = np.arange(num_pages, dtype=np.int32)[None]
        other.run(Batch(token_ids, positions, np.array([0, n], np.int32), pages, positions[:0]))
        return other.sums

    def set_key_means(self, means: F32) -> None:
        """What is taken off keys before TurboQuant codes them [num_layers, num_kv_heads * head_dim]."""
        self.k_means = means.reshape(self.k_means.shape)

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
        self.logits = np.zeros((0, program.plan.vocab_size), np.float32)
        width = sum(op.src.width for op in program.plan.ops if isinstance(op, Head))
        self.hidden = np.zeros((0, width), np.float32)

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
                self.at(op.dst)[:] = _swiglu(self.at(op.gate), self.at(op.up))
            case GeGLU():
                self.at(op.dst)[:] = _geglu(self.at(op.gate), self.at(op.up))
            case Add():
                self.at(op.dst)[:] += self.at(op.src)
            case SigmoidScale():
                self.at(op.buf)[:] *= _sigmoid(self.at(op.by)).astype(np.float32)
            case Moe():
                self.moe(op)
            case Take():
                self.take(op)
            case Head():
                self.hidden = self.at(op.src)[self.batch.logit_rows]  # [L, hidden_size]
                self.logits = self.product(self.hidden, op.weight, op.bias, op.product).astype(np.float32)

    def at(self, view: View) -> F32:
        """The columns of a view [T, width], writable."""
        return self.buffers[view.buffer][:, view.offset : view.offset + view.width]

    def take(self, op: Take) -> None:
        """The batch, and so every buffer, becomes its rows of logits."""
        batch, rows = self.batch, self.batch.logit_rows
        taken = [self.at(src)[rows] for src, _ in op.pairs]
        n = len(rows)
        self.buffers = {name: np.zeros((n, width), np.float32) for name, width in self.program.plan.buffers.items()}
        for (_, dst), values in zip(op.pairs, taken, strict=True):
            self.at(dst)[:] = values
        numbers = np.arange(n + 1, dtype=np.int32)
        tables = batch.page_tables[np.searchsorted(batch.seq_starts, rows, side="right") - 1]
        self.batch = Batch(batch.token_ids[rows], batch.positions[rows], numbers, tables, numbers[:n])

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

    def moe(self, op: Moe) -> None:
        x, dst = self.at(op.src), self.at(op.dst)
        bias = None if op.selection_bias is None else self.program.weight(op.selection_bias)[0]
        experts, weights = route(self.at(op.logits), op.rule, bias)  # [T, top_k] each
        blocks = range(0, len(experts), MOE_ROWS)
        self.program.num_experts_read += sum(len(np.unique(experts[i : i + MOE_ROWS])) for i in blocks)
        total = np.zeros(dst.shape)
        for expert in np.unique(experts):
            rows, places = np.nonzero(experts == expert)
            gate, up = (self.product(x[rows], names[expert], None, op.product) for names in (op.gates, op.ups))
            inner = _swiglu(gate.astype(np.float32), up.astype(np.float32))  # [n, expert size]
            y = self.product(inner, op.downs[expert], None, op.product).astype(np.float32)
            total[rows] += weights[rows, places][:, None].astype(np.float64) * y
        dst[:] += total.astype(np.float32)

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
        keys, values = self.at(op.k).reshape(shape), self.at(op.v).reshape(shape)
        if self.program.sums is not None:
            self.program.sums[op.layer] += self.at(op.k)[self.program.first_summed :].sum(axis=0, dtype=np.float64)
        k_codec, v_codec = kv.codecs_of(op.layer)
        if CODECS[k_codec].is_turboquant:
            keys = keys - self.program.k_means[op.layer]
        with np.errstate(over="ignore"):  # beyond float16 is inf there, as in native code
            self.program.k_pages[op.layer, pages, slots] = _encode(
                _rotated(keys) if _is_rotated(k_codec) else keys, k_codec
            )
            values = _rotated(values) if CODECS[v_codec].is_turboquant else values
            self.program.v_pages[op.layer, pages, slots] = _encode(values, v_codec)

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

        k_codec, v_codec = kv.codecs_of(op.layer)

        def gather(pool: npt.NDArray[np.floating]) -> F64:  # [kv heads, keys, head_dim]
            tokens = pool[op.layer, pages].reshape(-1, kv.num_kv_heads, kv.head_dim)
            return np.asarray(tokens[:num_keys].transpose(1, 0, 2), np.float64)

        keys, values = gather(self.program.k_pages), gather(self.program.v_pages)
        group = op.num_heads // kv.num_kv_heads  # query heads that share a kv head
        q = self.at(op.q)[rows].reshape(-1, kv.num_kv_heads, group, kv.head_dim) * np.float32(op.scale)
        if _is_rotated(k_codec):
            q = _rounded(_rotated(q), QUERY_CODES)
        scores = q.transpose(1, 2, 0, 3).astype(np.float64) @ keys[:, None].swapaxes(2, 3)  # [kv heads, group, n, keys]
        keys_at = np.arange(num_keys)
        scores[..., keys_at > positions[:, None]] = -np.inf
        if op.window is not None:
            scores[..., keys_at <= positions[:, None] - op.window] = -np.inf
        weights = np.exp(scores - scores.max(axis=3, keepdims=True))
        weights /= weights.sum(axis=3, keepdims=True)
        attended = weights @ values[:, None]  # [kv heads, group, n, head_dim]
        if CODECS[v_codec].is_turboquant:
            attended = hadamard(attended)  # its own inverse
        self.at(op.dst)[rows] = attended.transpose(2, 0, 1, 3).reshape(len(positions), -1)


def _sigmoid(x: F32) -> F64:
    with np.errstate(over="ignore"):  # exp(-x) may be inf: the quotient is then 0, as it should be
        result: F64 = 1 / (1 + np.exp(-x.astype(np.float64)))
    return result


def _swiglu(gate: F32, up: F32) -> F32:
    result: F32 = (gate * _sigmoid(gate) * up).astype(np.float32)
    return result


def _geglu(gate: F32, up: F32) -> F32:
    x = gate.astype(np.float64)
    inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    result: F32 = (0.5 * x * (1 + inner) * up).astype(np.float32)
    return result


def quantize_activations(x: F32) -> F64:
    """x [T, cols] as its 8-bit codes say it: per block of 32 columns, scale = max|x| / 127, codes rounded half to even.

    In float64 the products of codes are exact, so multiplying these values is multiplying the codes and scaling after.
    """
    blocks = x.reshape(len(x), x.shape[1] // ACTIVATION_BLOCK, ACTIVATION_BLOCK)
    largest = np.abs(blocks).max(axis=2, keepdims=True)  # [T, blocks, 1] float32
    # By the reciprocal, as native code does: a quotient would round a few codes the other way.
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 1e-30)
    codes = np.rint(blocks * inverse)
    values: F64 = np.multiply(codes, largest / np.float32(127), dtype=np.float64).reshape(x.shape)
    return values


def _encode(heads: F32, codec: str) -> F32:
    """heads [..., head_dim] as the codec keeps them."""
    if codec == "q8":
        return _rounded(heads, np.float32(127))
    if CODECS[codec].is_turboquant:
        return _nearest(heads, CODECS[codec].bits)
    return heads


def _nearest(heads: F32, bits: int) -> F32:
    """heads [..., head_dim], each coordinate the nearest of the codebook for their norm, scaled to that norm."""
    head_dim = heads.shape[-1]
    book = code_values(head_dim, bits).astype(np.float32)  # [2**bits]
    norms = np.sqrt((heads * heads).sum(axis=-1, keepdims=True))  # [..., 1]
    unit = np.float32(code_unit(head_dim, bits))
    inverse = np.divide(unit, norms, out=np.zeros_like(norms), where=norms > 1e-30)
    nearest = book[np.searchsorted((book[1:] + book[:-1]) / 2, heads * inverse)]  # [..., head_dim]
    scales = norms / np.sqrt((nearest * nearest).sum(axis=-1, keepdims=True)) * TURBO_SCALE
    values: F32 = nearest * (scales.astype(np.float16).astype(np.float32) / TURBO_SCALE)
    return values


def _rounded(heads: F32, most: np.float32) -> F32:
    """heads [..., head_dim] as whole multiples of a scale of their own, at most `most` of them."""
    largest = np.abs(heads).max(axis=-1, keepdims=True)  # [..., 1]
    inverse = np.divide(most, largest, out=np.zeros_like(largest), where=largest > 1e-30)
    values: F32 = np.rint(heads * inverse) * (largest / most)
    return values


def _is_rotated(k_codec: str) -> bool:
    """Whether keys are kept, and queries meet them, in the rotated basis."""
    return k_codec == "q8" or CODECS[k_codec].is_turboquant


def _rotated(heads: F32) -> F32:
    return hadamard(heads).astype(np.float32)


def _has_codes(tensor: QTensor) -> bool:
    return format_of(tensor.format).block_size > 1

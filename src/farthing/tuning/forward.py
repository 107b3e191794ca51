"""A model on many windows of text at once, a layer at a time, in NumPy's float32: the calibration pass.

The engine keeps a whole model and few tokens in memory; here it is the other way round. Of the weights only one layer's
are unpacked, of the text every token's residual stream is there, so whatever a layer needs to know of its inputs can be
asked before the next layer runs. It interprets the same plan as the engine does, and its logits are the engine's within
float32's rounding (tests/tuning/test_forward.py).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farthing.errors import UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.kernels.gates import route
from farthing.kernels.mapped import forget_mapped
from farthing.kernels.plan import (
    Add,
    Attention,
    Embed,
    Head,
    Linear,
    Moe,
    Op,
    Plan,
    QTensor,
    RmsNorm,
    Rope,
    SigmoidScale,
    StoreKV,
    SwiGLU,
    View,
)
from farthing.tuning.threads import in_order

__all__ = ["Forward", "Tap"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


class Tap(Protocol):
    """Looks at the inputs of weights."""

    def see(self, rows: F32) -> object:
        """What is to be kept of rows [n, cols] of an input. Called from several threads."""
        ...

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        """What was seen of the input that these weights meet, in the order of the text; unless is_all more follows
        before the layer ends."""
        ...


class _Blind:
    """Looks at nothing."""

    def see(self, rows: F32) -> object:  # noqa: ARG002
        return None

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        pass


CHUNK_TOKENS = 2048  # whole windows that a layer's operations run on at a time
LEAST_EXPONENT = np.float32(-80)  # NumPy's exp takes twenty times as long for what underflows
QUERIES = 128  # of a window whose scores are held at a time
HEAD_TOKENS = 256  # whose logits are made at a time
_BLIND = _Blind()
_LAYER = re.compile(r"layers\.(\d+)\.")


class Forward:
    """Windows [N, W] of token ids on their way through a plan. `stream` [N * W, hidden_size] is where they are.

    Call `embed`, then `layer` for each layer from 0 on, then `logits`. Each takes the tensors to compute with, so that
    a layer can be run with other weights than the plan's.
    """

    def __init__(self, plan: Plan, windows: Sequence[Sequence[int]]) -> None:
        self.windows: I32 = np.asarray(windows, np.int32)  # [N, W]
        self._plan = plan
        self._stages = _stages(plan.ops)
        moes = [op for op in plan.ops if isinstance(op, Moe)]
        # Buffers of all tokens; the others live as long as a chunk.
        names = {"hidden", *(view.buffer for op in moes for view in (op.src, op.logits, op.dst))}
        self._whole = {name: np.zeros((self.windows.size, plan.buffers[name]), np.float32) for name in sorted(names)}

    @property
    def num_layers(self) -> int:
        return len(self._stages) - 2

    @property
    def stream(self) -> F32:
        return self._whole["hidden"]

    @stream.setter
    def stream(self, values: F32) -> None:
        self._whole["hidden"][:] = values

    def embed(self, tensors: Mapping[str, QTensor]) -> None:
        ids = self.windows.reshape(-1)
        for op in self._stages[0]:
            assert isinstance(op, Embed), op
            t = tensors[op.weight]
            rows = t.data.reshape(t.rows, -1)[ids]  # [T, row bytes]: of a large vocabulary only what is asked for
            values = dequantize(rows.reshape(-1), t.format, len(ids), t.cols)
            self._whole[op.dst.buffer][:, op.dst.offset : op.dst.offset + op.dst.width] = np.float32(op.scale) * values

    def layer(self, index: int, tensors: Mapping[str, QTensor], tap: Tap = _BLIND) -> None:
        """Run layer `index` on all windows; tap sees the input of every weight: of an expert the rows that chose it at
        once, of other weights a chunk at a time."""
        weights = _Weights(tensors)
        for is_moe, ops in groupby(self._stages[1 + index], lambda op: isinstance(op, Moe)):
            if is_moe:
                for op in ops:
                    assert isinstance(op, Moe)
                    self._moe(op, weights, tap)
            else:
                self._chunks(tuple(ops), weights, tap)

    def head_inputs(self, tensors: Mapping[str, QTensor], tap: Tap) -> None:
        """Show the input of the head, a part at a time, and compute nothing of it."""
        for op, x in self._before_head(_Weights(tensors), self.stream):
            tap.take((op.weight,), tap.see(x), False)

    def logits(self, tensors: Mapping[str, QTensor], rows: npt.NDArray[np.int64] | None = None) -> Iterator[F32]:
        """Logits [n, V] of all tokens, or of the given rows, in order; the stream stays as it is."""
        weights = _Weights(tensors)

        def logits(part: tuple[Head, F32]) -> F32:
            op, x = part
            result: F32 = x @ weights[op.weight].T
            return result if op.bias is None else result + weights[op.bias]

        yield from in_order(logits, self._before_head(weights, self.stream if rows is None else self.stream[rows]))

    def _before_head(self, weights: "_Weights", stream: F32) -> Iterator[tuple[Head, F32]]:
        *ops, head = self._stages[-1]
        assert isinstance(head, Head), head
        for first in range(0, len(stream), HEAD_TOKENS):
            hidden = stream[first : first + HEAD_TOKENS].copy()
            chunk = _Chunk(self._plan, {"hidden": hidden}, 1, weights, _BLIND)
            for op in ops:
                chunk.do(op)
            yield head, np.ascontiguousarray(chunk.at(head.src))

    def _chunks(self, ops: tuple[Op, ...], weights: "_Weights", tap: Tap) -> None:
        num_windows, window = self.windows.shape
        step = max(1, CHUNK_TOKENS // window)

        def run(first: int) -> _Chunk:
            last = min(first + step, num_windows)
            views = {name: whole[first * window : last * window] for name, whole in self._whole.items()}
            chunk = _Chunk(self._plan, views, last - first, weights, tap)
            for op in ops:
                chunk.do(op)
            return chunk

        for chunk in in_order(run, range(0, num_windows, step)):
            for names, seen in chunk.seen:
                tap.take(names, seen, False)

    def _moe(self, op: Moe, weights: "_Weights", tap: Tap) -> None:
        """Expert by expert, so that few experts' rows and weights are held at a time."""
        chunk = _Chunk(self._plan, self._whole, len(self.windows), weights, tap)
        bias = None if op.selection_bias is None else weights[op.selection_bias][0]
        experts, shares = route(chunk.at(op.logits), op.rule, bias)  # [T, top_k] each
        src, total = chunk.at(op.src), np.zeros_like(chunk.at(op.dst))
        chosen = [e for e in range(len(op.gates)) if (experts == e).any()]

        def run(expert: int) -> tuple[int, npt.NDArray[np.int64], object, object, F32]:
            rows, places = np.nonzero(experts == expert)
            own = weights.apart()
            x = src[rows]
            inner = _swiglu(*(x @ own[name].T for name in (op.gates[expert], op.ups[expert])))
            y = shares[rows, places][:, None] * (inner @ own[op.downs[expert]].T)
            return expert, rows, tap.see(x), tap.see(inner), y

        for expert, rows, of_src, of_inner, y in in_order(run, chosen):
            total[rows] += y
            tap.take((op.gates[expert], op.ups[expert]), of_src, True)
            tap.take((op.downs[expert],), of_inner, True)
        chunk.at(op.dst)[:] += total


def _stages(ops: Sequence[Op]) -> list[tuple[Op, ...]]:
    """The operations before the layers, of each layer, and after them; those without a layer's weight stay with the
    one before."""
    stages: list[list[Op]] = [[]]
    number = -1
    for op in ops:
        found = _LAYER.match(_first_weight(op))
        is_end = isinstance(op, RmsNorm) and found is None
        if is_end or (found is not None and int(found[1]) != number):
            stages.append([])
        number = int(found[1]) if found is not None else number
        stages[-1].append(op)
    return [tuple(stage) for stage in stages]


def _first_weight(op: Op) -> str:
    match op:
        case RmsNorm():
            return op.weight
        case Linear():
            return op.weights[0]
        case Moe():
            return op.gates[0]
    return ""


class _Weights:
    """Tensors as float32, unpacked when first used, for several threads."""

    def __init__(self, tensors: Mapping[str, QTensor]) -> None:
        self._tensors = tensors
        self._values: dict[str, F32] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> F32:
        with self._lock:
            if name not in self._values:
                t = self._tensors[name]
                self._values[name] = dequantize(t.data, t.format, t.rows, t.cols)
                forget_mapped(t.data)
            return self._values[name]

    def apart(self) -> "_Weights":
        """The same tensors, to be forgotten sooner."""
        return _Weights(self._tensors)


class _Chunk:
    """Some windows within one layer: its buffers, and one method per operation."""

    def __init__(self, plan: Plan, views: Mapping[str, F32], num_windows: int, weights: _Weights, tap: Tap) -> None:
        self.plan, self.num_windows, self.weights, self.tap = plan, num_windows, weights, tap
        self.buffers = dict(views)
        self.num_tokens = len(next(iter(views.values())))
        self.keys_and_values: tuple[F32, F32] | None = None
        self.seen: list[tuple[tuple[str, ...], object]] = []

    def at(self, view: View) -> F32:
        """The columns of a view [T, width], writable."""
        if view.buffer not in self.buffers:
            self.buffers[view.buffer] = np.empty((self.num_tokens, self.plan.buffers[view.buffer]), np.float32)
        return self.buffers[view.buffer][:, view.offset : view.offset + view.width]

    def do(self, op: Op) -> None:
        match op:
            case RmsNorm():
                self.rms_norm(op)
            case Linear():
                self.linear(op)
            case Rope():
                self.rope(op)
            case StoreKV():
                self.keys_and_values = self.at(op.k), self.at(op.v)
            case Attention():
                self.attention(op)
            case SwiGLU():
                self.at(op.dst)[:] = _swiglu(self.at(op.gate), self.at(op.up))
            case Add():
                self.at(op.dst)[:] += self.at(op.src)
            case SigmoidScale():
                self.at(op.buf)[:] *= _sigmoid(self.at(op.by))
            case _:
                raise UnsupportedModel(f"calibration does not know the operation {type(op).__name__} of this model")

    def rms_norm(self, op: RmsNorm) -> None:
        src = self.at(op.src)
        x = src.reshape(len(src), -1, op.group)  # [T, groups, group]
        scale = 1 / np.sqrt(np.einsum("tgc,tgc->tg", x, x) / np.float32(op.group) + np.float32(op.eps))
        self.at(op.dst)[:] = (x * scale[:, :, None] * self.weights[op.weight]).reshape(src.shape)

    def linear(self, op: Linear) -> None:
        x, dst, first = np.ascontiguousarray(self.at(op.src)), self.at(op.dst), 0
        self.seen.append((op.weights, self.tap.see(x)))
        for name, bias in zip(op.weights, op.biases, strict=True):
            weight = self.weights[name]
            y = x @ weight.T
            if bias is not None:
                y += self.weights[bias]
            part = dst[:, first : first + len(weight)]
            part[:] = part + y if op.is_added else y
            first += len(weight)

    def rope(self, op: Rope) -> None:
        buf, window = self.at(op.buf), self.num_tokens // self.num_windows
        inv_freq = self.weights[op.inv_freq][0]  # [head_dim / 2]
        angles = np.arange(window, dtype=np.float32)[:, None, None] * inv_freq  # [W, 1, head_dim / 2]
        cos, sin = (np.asarray(op.scale * f(angles.astype(np.float64)), np.float32) for f in (np.cos, np.sin))
        heads = buf.reshape(self.num_windows, window, -1, op.head_dim)
        half = op.head_dim // 2
        first = slice(0, half) if op.style == "half" else slice(0, None, 2)
        second = slice(half, None) if op.style == "half" else slice(1, None, 2)
        a, b = heads[..., first], heads[..., second]
        turned = np.empty_like(heads)
        turned[..., first], turned[..., second] = a * cos - b * sin, b * cos + a * sin
        buf[:] = turned.reshape(buf.shape)

    def attention(self, op: Attention) -> None:
        assert self.keys_and_values is not None
        window, kv_width = self.num_tokens // self.num_windows, self.keys_and_values[0].shape[1]
        q, dst = self.at(op.q), self.at(op.dst)
        head_dim = q.shape[1] // op.num_heads
        num_kv_heads = kv_width // head_dim
        for i in range(self.num_windows):
            rows = slice(i * window, (i + 1) * window)
            keys, values = (
                np.ascontiguousarray(side[rows].reshape(window, num_kv_heads, 1, head_dim).transpose(1, 2, 0, 3))
                for side in self.keys_and_values
            )  # [kv heads, 1, W, d]
            heads = q[rows].reshape(window, num_kv_heads, -1, head_dim).transpose(1, 2, 0, 3)  # [kv heads, group, W, d]
            heads = heads * np.float32(op.scale)
            for first in range(0, window, QUERIES):
                last = min(first + QUERIES, window)
                attended = _attend(heads[:, :, first:last], keys[:, :, :last], values[:, :, :last])
                dst[rows][first:last] = attended.transpose(2, 0, 1, 3).reshape(last - first, -1)


def _attend(q: F32, keys: F32, values: F32) -> F32:
    """Attention of the last n positions [kv heads, group, n, d] to all so far [kv heads, 1, m, d]."""
    scores = q @ keys.swapaxes(2, 3)  # [kv heads, group, n, m]
    n, m = scores.shape[2:]
    latest = scores[..., m - n :]
    latest += np.triu(np.full((n, n), -np.inf, np.float32), 1)
    scores -= scores.max(axis=3, keepdims=True)
    np.maximum(scores, LEAST_EXPONENT, out=scores)
    np.exp(scores, out=scores)
    latest *= np.tri(n, dtype=np.float32)
    result: F32 = (scores @ values) / scores.sum(axis=3, keepdims=True)
    return result


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):  # the quotient is then 0, as it should be
        result: F32 = np.float32(1) / (np.float32(1) + np.exp(-x))
    return result


def _swiglu(gate: F32, up: F32) -> F32:
    result: F32 = gate * _sigmoid(gate) * up
    return result

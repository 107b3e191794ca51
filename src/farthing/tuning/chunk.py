"""Some windows of text within one layer, in NumPy's float32: one method per operation of a plan."""

from collections.abc import Mapping
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farthing.errors import UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.kernels.mapped import forget_mapped
from farthing.kernels.plan import (
    Add,
    Attention,
    GeGLU,
    Linear,
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

__all__ = ["Blind", "Chunk", "Tap", "Weights", "swiglu"]

F32 = npt.NDArray[np.float32]

GELU = np.float32(np.sqrt(2 / np.pi))
LEAST_EXPONENT = np.float32(-80)  # NumPy's exp takes twenty times as long for what underflows
QUERIES = 128  # of a window whose scores are held at a time


class Tap(Protocol):
    """Looks at the inputs of weights."""

    def see(self, rows: F32, num_windows: int = 0) -> object:
        """What is to be kept of rows [n, cols] of an input: of so many whole windows, one behind the other, or (0) of
        tokens from anywhere. Called from several threads."""
        ...

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        """What was seen of the input that these weights meet, in the order of the text; unless is_all more follows
        before the layer ends."""
        ...


class Blind:
    """Looks at nothing."""

    def see(self, rows: F32, num_windows: int = 0) -> object:  # noqa: ARG002
        return None

    def take(self, weights: tuple[str, ...], seen: object, is_all: bool) -> None:
        pass


class Weights:
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

    def apart(self) -> "Weights":
        """The same tensors, to be forgotten sooner."""
        return Weights(self._tensors)


class Chunk:
    """Some windows within one layer: its buffers, and one method per operation."""

    def __init__(self, plan: Plan, views: Mapping[str, F32], num_windows: int, weights: Weights, tap: Tap) -> None:
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
                self.at(op.dst)[:] = swiglu(self.at(op.gate), self.at(op.up))
            case GeGLU():
                self.at(op.dst)[:] = _geglu(self.at(op.gate), self.at(op.up))
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
        self.seen.append((op.weights, self.tap.see(x, self.num_windows)))
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
                since = 0 if op.window is None else max(0, first - op.window + 1)  # what none of them sees any more
                seen = slice(since, last)
                attended = _attend(heads[:, :, first:last], keys[:, :, seen], values[:, :, seen], op.window)
                dst[rows][first:last] = attended.transpose(2, 0, 1, 3).reshape(last - first, -1)


def _attend(q: F32, keys: F32, values: F32, reach: int | None) -> F32:
    """Attention of the last n positions [kv heads, group, n, d] to all so far [kv heads, 1, m, d], or to the last
    `reach` of them, themselves included."""
    scores = q @ keys.swapaxes(2, 3)  # [kv heads, group, n, m]
    n, m = scores.shape[2:]
    is_far = None
    if reach is not None:
        is_far = np.arange(m) <= np.arange(m - n, m)[:, None] - reach  # [n, m]
        scores[..., is_far] = -np.inf
    latest = scores[..., m - n :]
    latest += np.triu(np.full((n, n), -np.inf, np.float32), 1)
    scores -= scores.max(axis=3, keepdims=True)
    np.maximum(scores, LEAST_EXPONENT, out=scores)
    np.exp(scores, out=scores)
    latest *= np.tri(n, dtype=np.float32)
    if is_far is not None:
        scores[..., is_far] = 0
    result: F32 = (scores @ values) / scores.sum(axis=3, keepdims=True)
    return result


def _geglu(gate: F32, up: F32) -> F32:
    result: F32 = np.float32(0.5) * gate * (1 + np.tanh(GELU * (gate + np.float32(0.044715) * gate**3))) * up
    return result


def _sigmoid(x: F32) -> F32:
    with np.errstate(over="ignore"):  # the quotient is then 0, as it should be
        result: F32 = np.float32(1) / (np.float32(1) + np.exp(-x))
    return result


def swiglu(gate: F32, up: F32) -> F32:
    result: F32 = gate * _sigmoid(gate) * up
    return result

"""A model on many windows of text at once, a layer at a time, in NumPy's float32: the calibration pass.

The engine keeps a whole model and few tokens in memory; here it is the other way round. Of the weights only one layer's
are unpacked, of the text every token's residual stream is there, so whatever a layer needs to know of its inputs can be
asked before the next layer runs. It interprets the same plan as the engine does, and its logits are the engine's within
float32's rounding (tests/tuning/test_forward.py).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import dequantize
from farthing.kernels.gates import route
from farthing.kernels.plan import Embed, Head, Linear, Moe, Op, Plan, QTensor, RmsNorm
from farthing.tuning.chunk import Blind, Chunk, Tap, Weights, swiglu
from farthing.tuning.threads import in_order

__all__ = ["Forward"]

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]

CHUNK_TOKENS = 2048  # whole windows that a layer's operations run on at a time
HEAD_TOKENS = 256  # whose logits are made at a time
_BLIND = Blind()
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
        weights = Weights(tensors)
        for is_moe, ops in groupby(self._stages[1 + index], lambda op: isinstance(op, Moe)):
            if is_moe:
                for op in ops:
                    assert isinstance(op, Moe)
                    self._moe(op, weights, tap)
            else:
                self._chunks(tuple(ops), weights, tap)

    def head_inputs(self, tensors: Mapping[str, QTensor], tap: Tap) -> None:
        """Show the input of the head, a part at a time, and compute nothing of it."""
        for op, x in self._before_head(Weights(tensors), self.stream):
            tap.take((op.weight,), tap.see(x), False)

    def logits(self, tensors: Mapping[str, QTensor], rows: npt.NDArray[np.int64] | None = None) -> Iterator[F32]:
        """Logits [n, V] of all tokens, or of the given rows, in order; the stream stays as it is."""
        weights = Weights(tensors)

        def logits(part: tuple[Head, F32]) -> F32:
            op, x = part
            result: F32 = x @ weights[op.weight].T
            return result if op.bias is None else result + weights[op.bias]

        yield from in_order(logits, self._before_head(weights, self.stream if rows is None else self.stream[rows]))

    def _before_head(self, weights: Weights, stream: F32) -> Iterator[tuple[Head, F32]]:
        *ops, head = self._stages[-1]
        assert isinstance(head, Head), head
        for first in range(0, len(stream), HEAD_TOKENS):
            hidden = stream[first : first + HEAD_TOKENS].copy()
            chunk = Chunk(self._plan, {"hidden": hidden}, 1, weights, _BLIND)
            for op in ops:
                chunk.do(op)
            yield head, np.ascontiguousarray(chunk.at(head.src))

    def _chunks(self, ops: tuple[Op, ...], weights: Weights, tap: Tap) -> None:
        num_windows, window = self.windows.shape
        step = max(1, CHUNK_TOKENS // window)

        def run(first: int) -> Chunk:
            last = min(first + step, num_windows)
            views = {name: whole[first * window : last * window] for name, whole in self._whole.items()}
            chunk = Chunk(self._plan, views, last - first, weights, tap)
            for op in ops:
                chunk.do(op)
            return chunk

        for chunk in in_order(run, range(0, num_windows, step)):
            for names, seen in chunk.seen:
                tap.take(names, seen, False)

    def _moe(self, op: Moe, weights: Weights, tap: Tap) -> None:
        """Expert by expert, so that few experts' rows and weights are held at a time."""
        chunk = Chunk(self._plan, self._whole, len(self.windows), weights, tap)
        bias = None if op.selection_bias is None else weights[op.selection_bias][0]
        experts, shares = route(chunk.at(op.logits), op.rule, bias)  # [T, top_k] each
        src, total = chunk.at(op.src), np.zeros_like(chunk.at(op.dst))
        chosen = [e for e in range(len(op.gates)) if (experts == e).any()]

        def run(expert: int) -> tuple[int, npt.NDArray[np.int64], object, object, F32]:
            rows, places = np.nonzero(experts == expert)
            own = weights.apart()
            x = src[rows]
            inner = swiglu(*(x @ own[name].T for name in (op.gates[expert], op.ups[expert])))
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

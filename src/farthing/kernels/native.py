"""Hands a plan to the native code, operation by operation, and one batch per step."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import farthing._native as _native
from farthing.kernels.codecs import CODECS
from farthing.kernels.formats import dequantize
from farthing.kernels.mapped import forget_mapped
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
    QTensor,
    RmsNorm,
    Rope,
    SigmoidScale,
    StoreKV,
    SwiGLU,
    Take,
    View,
)
from farthing.kernels.turboquant import code_unit, code_values

__all__ = ["NativeProgram", "checksum", "instruction_sets", "native_file", "probe"]


def instruction_sets() -> tuple[str, ...]:
    """Names of the instruction sets built in and supported by this CPU, best first."""
    return tuple(_native.instruction_sets())


def native_file() -> Path:
    """The native library."""
    return Path(_native.__file__)


def checksum(data: npt.NDArray[np.uint8]) -> int:
    """XXH64 of contiguous bytes [n]: finds damage, at the speed of memory; no protection against deceit."""
    return int(_native.checksum(data))


def probe(isa: str, num_threads: int, num_bytes: int, passes: int) -> tuple[float, float, float]:
    """Measured limits: reading GB/s, float32 GFLOP/s, u4 x s8 integer GOP/s (best of `passes`)."""
    read, f32, int8 = _native.probe(isa, num_threads, num_bytes, passes)
    return read, f32, int8


def _read_as_floats(plan: Plan) -> set[str]:
    """Matrices that are used in another way than in products of integers: those keep their values to the bit."""
    names: set[str] = set()
    for op in plan.ops:
        match op:
            case Embed():
                names.add(op.weight)
            case Linear() if op.product != "int8":
                names.update(op.weights)
            case Head() if op.product != "int8":
                names.add(op.weight)
            case Moe() if op.product != "int8":
                names.update((*op.gates, *op.ups, *op.downs))
    return names


class NativeProgram:
    """A plan packed for one instruction set. Not safe for concurrent calls.

    beside: a program that never runs at the same time, whose threads this one uses too: those of two teams would wait
    for work on the same cores.
    """

    def __init__(
        self,
        plan: Plan,
        kv: KVSpec,
        num_threads: int,
        isa: str,
        experts_folder: Path | None = None,
        beside: "NativeProgram | None" = None,
    ) -> None:
        self.plan, self.kv, self.isa, self.num_threads = plan, kv, isa, num_threads
        self._program: _native.Program = _native.Program(
            isa=isa,
            num_threads=num_threads,
            vocab_size=plan.vocab_size,
            num_kv_heads=kv.num_kv_heads,
            head_dim=kv.head_dim,
            num_pages=kv.num_pages,
            page_size=kv.page_size,
            k_codecs=[kv.codecs_of(layer)[0] for layer in range(kv.num_layers)],
            v_codecs=[kv.codecs_of(layer)[1] for layer in range(kv.num_layers)],
            codebooks={
                codec: (
                    code_values(kv.head_dim, CODECS[codec].bits).tolist(),
                    code_unit(kv.head_dim, CODECS[codec].bits),
                )
                for codec in (kv.k_codec, kv.v_codec)
                if CODECS[codec].is_turboquant
            },
            experts_folder="" if experts_folder is None else str(experts_folder),
            **({} if beside is None else {"beside": beside._program}),
        )
        self.pages: npt.NDArray[np.uint8] = self._program.pages()  # [num_pages, page_bytes], writable
        self._buffers = {name: self._program.add_buffer(width) for name, width in plan.buffers.items()}
        self._matrices: dict[str, int] = {}
        self._vectors: dict[str, int] = {}
        self._read_as_floats = _read_as_floats(plan)
        for op in plan.ops:
            self._append(op)

    @property
    def weight_bytes(self) -> int:
        return int(self._program.weight_bytes())

    @property
    def kv_bytes(self) -> int:
        return int(self._program.kv_bytes())

    def op_seconds(self) -> dict[str, float]:
        """Seconds spent in each kind of operation since the program was made."""
        return dict(self._program.seconds())

    @property
    def num_experts_read(self) -> int:
        """Experts that were read since the program was made: each layer of each step counts those that its tokens took,
        of more than 512 tokens those of each 512."""
        return int(self._program.num_experts_read())

    @property
    def num_page_faults(self) -> int:
        """Waits for the disk while steps ran, where experts are kept in a file."""
        return int(self._program.num_page_faults())

    def run(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Logits [L, V] of the batch's logit_rows; the array is overwritten by the next run."""
        logits: npt.NDArray[np.float32] = self._program.run(
            batch.token_ids, batch.positions, batch.seq_starts, batch.page_tables, batch.logit_rows
        )
        return logits

    def hidden(self) -> npt.NDArray[np.float32]:
        """What the head read for each row of the last run's logits [L, hidden_size]; the next run overwrites it."""
        return self._program.hidden()

    def key_sums(self, token_ids: npt.NDArray[np.int32], first: int) -> npt.NDArray[np.float64]:
        """Runs one sequence in pages of its own; the sums of its keys from token `first` on, before coding
        [num_layers, num_kv_heads * head_dim]."""
        return np.array(self._program.key_sums(token_ids, first)).reshape(self.kv.num_layers, -1)

    def set_key_means(self, means: npt.NDArray[np.float32]) -> None:
        """What is taken off keys before TurboQuant codes them [num_layers, num_kv_heads * head_dim]; before any page is
        in use."""
        self._program.set_key_means(means)

    def sample(self, **arrays: npt.NDArray[Any]) -> None:
        self._program.sample(**arrays)

    def _matrix(self, name: str, *, is_expert: bool = False) -> int:
        if name not in self._matrices:
            t: QTensor = self.plan.tensors[name]
            is_int8 = name not in self._read_as_floats
            self._matrices[name] = self._program.add_matrix(t.format, t.rows, t.cols, t.data, is_expert, is_int8)
            forget_mapped(t.data)
        return self._matrices[name]

    def _vector(self, name: str | None) -> int:
        if name is None:
            return -1
        if name not in self._vectors:
            t = self.plan.tensors[name]
            values = dequantize(t.data, t.format, t.rows, t.cols).reshape(-1)  # [rows * cols]
            self._vectors[name] = self._program.add_vector(np.ascontiguousarray(values, np.float32))
        return self._vectors[name]

    def _columns(self, view: View) -> Any:
        return _native.Columns(self._buffers[view.buffer], view.offset, view.width)

    def _append(self, op: Op) -> None:
        p, at = self._program, self._columns
        match op:
            case Embed():
                p.embed(at(op.dst), self._matrix(op.weight), op.scale)
            case RmsNorm():
                p.rms_norm(at(op.src), at(op.dst), self._vector(op.weight), op.eps, op.group)
            case Linear():
                weights = [self._matrix(w) for w in op.weights]
                biases = [self._vector(b) for b in op.biases]
                p.linear(at(op.src), at(op.dst), weights, biases, op.is_added, op.product == "int8")
            case Rope():
                p.rope(at(op.buf), op.head_dim, self._vector(op.inv_freq), op.style == "interleaved", op.scale)
            case StoreKV():
                p.store_kv(op.layer, at(op.k), at(op.v))
            case Attention():
                p.attention(op.layer, at(op.q), at(op.dst), op.num_heads, op.scale, op.window or 0)
            case SwiGLU():
                p.swiglu(at(op.gate), at(op.up), at(op.dst))
            case GeGLU():
                p.geglu(at(op.gate), at(op.up), at(op.dst))
            case Add():
                p.add(at(op.src), at(op.dst))
            case SigmoidScale():
                p.sigmoid_scale(at(op.buf), at(op.by))
            case Moe():
                self._append_moe(op)
            case Take():
                p.take([at(src) for src, _ in op.pairs], [at(dst) for _, dst in op.pairs])
            case Head():
                p.head(at(op.src), self._matrix(op.weight), self._vector(op.bias), op.product == "int8")

    def _append_moe(self, op: Moe) -> None:
        rule, at = op.rule, self._columns
        gates, ups, downs = (
            [self._matrix(name, is_expert=True) for name in names] for names in (op.gates, op.ups, op.downs)
        )
        self._program.moe(
            at(op.src),
            at(op.logits),
            at(op.dst),
            rule.kind,
            rule.top_k,
            rule.is_renormalised,
            rule.scale,
            rule.num_groups,
            rule.num_kept_groups,
            self._vector(op.selection_bias),
            gates,
            ups,
            downs,
            op.product == "int8",
        )

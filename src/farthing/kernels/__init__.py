"""The door to the arithmetic: `load(plan, kv) -> Program`, `run(program, batch) -> logits`, `sample(...)`.

Native code stands behind it; `isa="reference"` interprets the same plan in NumPy instead.
"""

import hashlib
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.codecs import CODECS, TURBOQUANT_MULTIPLE
from farthing.kernels.formats import formats
from farthing.kernels.native import NativeProgram, checksum, instruction_sets, native_file
from farthing.kernels.native import probe as _probe
from farthing.kernels.plan import Batch, KVSpec, Plan
from farthing.kernels.reference import ReferenceProgram
from farthing.kernels.reference_sampling import sample_rows

__all__ = [
    "Limits",
    "Program",
    "Sampled",
    "build",
    "checksum",
    "codecs",
    "formats",
    "instruction_sets",
    "load",
    "probe",
    "run",
    "sample",
]


class Program(Protocol):
    """A plan ready to run; made by `load`."""

    @property
    def isa(self) -> str: ...  # that it runs on; never "auto"
    @property
    def pages(self) -> npt.NDArray[np.uint8]: ...  # [num_pages, page_bytes], all layers of a page in one row; writable
    @property
    def weight_bytes(self) -> int: ...
    @property
    def kv_bytes(self) -> int: ...
    @property
    def num_experts_read(self) -> int: ...  # since it was made, a layer and a step each counting its own
    @property
    def num_page_faults(self) -> int: ...  # waits for the disk, where experts are kept in a file
    def run(self, batch: Batch) -> npt.NDArray[np.float32]: ...
    def hidden(self) -> npt.NDArray[np.float32]: ...  # [L, hidden_size] what the head read for the last run's logits
    def key_sums(self, token_ids: npt.NDArray[np.int32], first: int) -> npt.NDArray[np.float64]: ...
    def set_key_means(self, means: npt.NDArray[np.float32]) -> None: ...


@dataclass(frozen=True)
class Limits:
    """What the machine can do at this moment, measured with the kernels' own instructions."""

    read_gb_s: float
    f32_gflop_s: float
    int8_gop_s: float


@lru_cache(maxsize=1)
def build() -> str:
    """Names the code that computes: the same bits come only from the same build. A digest of the native library, of
    this folder's Python files, and of what they stand on."""
    digest = hashlib.blake2b(digest_size=16)
    for path in (native_file(), *sorted(Path(__file__).parent.glob("*.py"))):
        digest.update(hashlib.blake2b(path.read_bytes()).digest())
    digest.update(repr((np.__version__, platform.machine(), platform.libc_ver())).encode())
    return digest.hexdigest()


def codecs() -> tuple[str, ...]:
    """Names of the KV codecs."""
    return tuple(CODECS)


def load(
    plan: Plan,
    kv: KVSpec,
    *,
    num_threads: int = 2,
    isa: str = "auto",
    experts_folder: Path | None = None,
    beside: Program | None = None,
) -> Program:
    """Packs the plan's tensors and makes the pages.

    isa: "auto" (the best this CPU has), one of `instruction_sets()`, or "reference".
    experts_folder: keep experts' weights in a file there instead of memory: of a model that is larger than the memory
    given, those that are not in use are dropped and read again.
    beside: a program whose threads this one uses too; the two are never to run at the same time.
    Raises InvalidRequest for an unknown isa or codec, or a folder without room for the experts, and ValueError when
    shapes do not fit together.
    """
    available = instruction_sets()
    if isa == "auto":
        isa = available[0]
    for codec in (kv.k_codec, kv.v_codec):
        if codec not in codecs():
            raise InvalidRequest(f"KV codec {codec!r} is not known; allowed: {', '.join(codecs())}")
        for name, size in (("head_dim", kv.head_dim), ("page_size", kv.page_size)):
            if CODECS[codec].is_turboquant and size % TURBOQUANT_MULTIPLE:
                raise InvalidRequest(
                    f"KV codec {codec} needs a {name} that is a multiple of {TURBOQUANT_MULTIPLE}, not {size}: use q8"
                )
    if isa == "reference":
        if experts_folder is not None:
            raise InvalidRequest(
                "isa 'reference' keeps all weights in memory; leave experts_folder out, or choose auto"
            )
        return ReferenceProgram(plan, kv)
    if isa not in available:
        allowed = ", ".join(("auto", *available, "reference"))
        raise InvalidRequest(f"instruction set {isa!r} is not available here; allowed: {allowed}")
    try:
        other = beside if isinstance(beside, NativeProgram) else None
        return NativeProgram(plan, kv, num_threads, isa, experts_folder, other)
    except RuntimeError as error:
        if experts_folder is None:
            raise
        raise InvalidRequest(f"{error}; give experts_folder another place, or none to keep experts in memory") from None


def run(program: Program, batch: Batch) -> npt.NDArray[np.float32]:
    """One step: stores K and V of the batch's tokens, returns logits [L, V] of its logit_rows.

    The array may be overwritten by the next run. Raises ValueError for a batch that reaches outside the pages, the
    vocabulary or itself.
    """
    return program.run(batch)


def probe(num_threads: int = 2, num_bytes: int = 96 << 20, passes: int = 5) -> Limits:
    """Measures the machine's limits (about 0.1 s a pass) on a buffer of num_bytes."""
    return Limits(*_probe(instruction_sets()[0], num_threads, num_bytes, passes))


@dataclass(frozen=True)
class Sampled:
    """Chosen tokens and, where wanted, log-probabilities (natural log, of the model's own distribution)."""

    token: npt.NDArray[np.int32]  # [n]
    logprob: npt.NDArray[np.float32]  # [n], 0 where not wanted
    top_token: npt.NDArray[np.int32]  # [n, num_top]
    top_logprob: npt.NDArray[np.float32]  # [n, num_top]


def sample(
    program: Program,
    logits: npt.NDArray[np.float32],  # [n, V]
    *,
    temperature: npt.NDArray[np.float32],  # [n], 0 is greedy
    top_k: npt.NDArray[np.int32],  # [n], 0 is all
    top_p: npt.NDArray[np.float32],  # [n]
    min_p: npt.NDArray[np.float32],  # [n]
    penalty: npt.NDArray[np.float32],  # [n]
    seed: npt.NDArray[np.uint64],  # [n]
    step: npt.NDArray[np.uint64],  # [n]: the random number is a function of (seed, step)
    history: npt.NDArray[np.int32],  # token ids the penalty applies to, all rows one after the other
    history_starts: npt.NDArray[np.int64],  # [n + 1]
    num_top: int,
    wants_logprob: npt.NDArray[np.uint8],  # [n]
    is_as_run: npt.NDArray[np.uint8] | None = None,  # [n], of the last run's logits: rows that are as it left them
) -> Sampled:
    """Chooses one token per row: repetition penalty, temperature, top-k, top-p, min-p, then a draw by (seed, step).

    Rows that are as the last run left them are not read again: their largest logits were noted as they were made.
    """
    n = logits.shape[0]
    out = Sampled(
        token=np.zeros(n, np.int32),
        logprob=np.zeros(n, np.float32),
        top_token=np.zeros((n, num_top), np.int32),
        top_logprob=np.zeros((n, num_top), np.float32),
    )
    arrays: dict[str, Any] = {
        "logits": logits,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "penalty": penalty,
        "seed": seed,
        "step": step,
        "history": history,
        "history_starts": history_starts,
        "wants_logprob": wants_logprob,
        "is_as_run": np.zeros(n, np.uint8) if is_as_run is None else is_as_run,
        "token": out.token,
        "logprob": out.logprob,
        "top_token": out.top_token,
        "top_logprob": out.top_logprob,
    }
    if isinstance(program, NativeProgram):
        program.sample(**arrays)
    else:
        sample_rows(**arrays)
    return out

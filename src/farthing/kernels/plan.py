"""The language between a model and the arithmetic: a plan is a short list of operations on named tensors.

`models/decoder.py` writes a plan once, at load; native code runs it for a ragged batch in one call, and
`reference.py` interprets the same plan in NumPy.

T = tokens in the batch, B = sequences in it, V = vocabulary size (of a classifier's logits: its labels). Activations
are float32 buffers [T, width].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from farthing.kernels.codecs import CODECS, EDGE_CODEC, head_bytes
from farthing.kernels.gates import GateRule

__all__ = [
    "Add",
    "Attention",
    "Batch",
    "Embed",
    "GeGLU",
    "Head",
    "KVSpec",
    "Linear",
    "Moe",
    "Op",
    "Plan",
    "QTensor",
    "RmsNorm",
    "Rope",
    "SigmoidScale",
    "StoreKV",
    "SwiGLU",
    "Take",
    "View",
]

Product = Literal["f32", "int8"]


@dataclass(frozen=True)
class QTensor:
    """A matrix [rows, cols] (a vector has rows = 1) in a named format, rows contiguous, in GGUF's block layout."""

    format: str
    rows: int
    cols: int
    data: npt.NDArray[np.uint8]  # [rows * row_bytes], may be a view of a mapped file


@dataclass(frozen=True)
class View:
    """Columns [offset, offset + width) of a buffer."""

    buffer: str
    offset: int
    width: int


@dataclass(frozen=True)
class Embed:
    """dst[t] = scale * weight[token_ids[t]]"""

    dst: View
    weight: str  # [V, hidden_size]
    scale: float = 1.0


@dataclass(frozen=True)
class RmsNorm:
    """dst = src / sqrt(mean(src^2) + eps) * weight, over groups of columns: hidden_size, or head_dim for QK-norm."""

    src: View
    dst: View
    weight: str  # [group] float32
    eps: float
    group: int


@dataclass(frozen=True)
class Linear:
    """dst (+)= src @ weight.T + bias; several weights over one input fill dst side by side (q, k, v in one pass).

    product "int8" quantizes src to 8 bits per 32 columns (scale = max|x|/127, round half to even) where the weight's
    format has integer codes, and multiplies the codes exactly; "f32" unpacks the weight and multiplies in float32.
    """

    src: View
    dst: View
    weights: tuple[str, ...]  # each [width_i, src.width]
    biases: tuple[str | None, ...]  # each [width_i] float32
    is_added: bool = False  # dst += instead of dst =
    product: Product = "f32"


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding in place over heads of `buf`, by cos/sin(position * inv_freq) times `scale`.

    "half" pairs column i with i + head_dim/2 (Hugging Face), "interleaved" pairs 2i with 2i + 1 (GGUF's llama).
    """

    buf: View
    head_dim: int
    inv_freq: str  # [head_dim / 2] float32
    style: Literal["half", "interleaved"]
    scale: float = 1.0


@dataclass(frozen=True)
class StoreKV:
    """Write this layer's keys and values of the batch's tokens into their pages."""

    layer: int
    k: View  # [T, num_kv_heads * head_dim]
    v: View


@dataclass(frozen=True)
class Attention:
    """Causal attention of each token over its own sequence's pages, positions 0..position inclusive (GQA), or the last
    `window` of them."""

    layer: int
    q: View  # [T, num_heads * head_dim]
    dst: View
    num_heads: int
    scale: float  # usually head_dim ** -0.5
    window: int | None = None  # None: the whole past


@dataclass(frozen=True)
class SwiGLU:
    """dst = silu(gate) * up"""

    gate: View
    up: View
    dst: View


@dataclass(frozen=True)
class GeGLU:
    """dst = gelu(gate) * up, gelu by tanh's approximation"""

    gate: View
    up: View
    dst: View


@dataclass(frozen=True)
class Add:
    """dst += src"""

    src: View
    dst: View


@dataclass(frozen=True)
class SigmoidScale:
    """buf[t] *= sigmoid(by[t]): how much of a shared expert a token takes."""

    buf: View
    by: View  # [T, 1]


@dataclass(frozen=True)
class Moe:
    """dst[t] += sum over the experts e that logits[t] chooses: weight * downs[e] @ (silu(gates[e] @ x) * (ups[e] @ x)),
    x = src[t], from the lowest e to the highest. Nothing is computed for experts that no token chooses."""

    src: View  # [T, hidden_size]
    logits: View  # [T, E]
    dst: View  # [T, hidden_size]
    rule: GateRule
    gates: tuple[str, ...]  # of each expert [expert size, hidden_size]
    ups: tuple[str, ...]
    downs: tuple[str, ...]  # of each expert [hidden_size, expert size]
    selection_bias: str | None = None  # [E] float32
    product: Product = "f32"


@dataclass(frozen=True)
class Take:
    """dst[i] = src[logit_rows[i]] of each pair of views (src, dst); from here on the batch is those rows, each the only
    token of a sequence of its own.

    What is behind it computes nothing for other tokens, and nothing at all where no logits are wanted. Once in a plan.
    """

    pairs: tuple[tuple[View, View], ...]  # both of the same width, and of two buffers


@dataclass(frozen=True)
class Head:
    """logits[i] = src[logit_rows[i]] @ weight.T: only for the rows that are asked for."""

    src: View
    weight: str  # [V, hidden_size], or [num_labels, hidden_size] of a classifier
    bias: str | None = None
    product: Product = "f32"


Op = Embed | RmsNorm | Linear | Rope | StoreKV | Attention | SwiGLU | GeGLU | Add | SigmoidScale | Moe | Take | Head


@dataclass(frozen=True)
class KVSpec:
    """What the pages hold. One page holds page_size tokens of every layer, K and V.

    num_edge_layers: so many of the first and of the last layers keep in q8 what others keep in a TurboQuant codec.
    windows: of each layer how many positions a token sees, None being the whole past; empty: all see it. A page is
    given back as a whole, so a layer with a window keeps what it will not read again: `unread_bytes` says how much.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    num_pages: int
    page_size: int = 16
    k_codec: str = "q8"
    v_codec: str = "q8"
    num_edge_layers: int = 2
    windows: tuple[int | None, ...] = ()

    def codecs_of(self, layer: int) -> tuple[str, str]:
        """Of a layer's keys and of its values."""
        is_edge = min(layer, self.num_layers - 1 - layer) < self.num_edge_layers
        k, v = (EDGE_CODEC if is_edge and CODECS[c].is_turboquant else c for c in (self.k_codec, self.v_codec))
        return k, v

    @property
    def token_bytes(self) -> int:
        """Of one token's keys and values in all layers."""
        return sum(map(self.layer_bytes, range(self.num_layers)))

    def unread_bytes(self, num_tokens: int) -> int:
        """Of a sequence's keys and values those that no later token sees, windows having passed them."""
        windows = enumerate(self.windows)
        # The next token sees itself and so many before it.
        unread = (self.layer_bytes(i) * max(0, num_tokens + 1 - window) for i, window in windows if window)
        return sum(unread)

    def layer_bytes(self, layer: int) -> int:
        """Of one token's keys and values in one layer."""
        return self.num_kv_heads * sum(head_bytes(codec, self.head_dim) for codec in self.codecs_of(layer))

    @property
    def page_bytes(self) -> int:
        return self.page_size * self.token_bytes


@dataclass(frozen=True)
class Plan:
    buffers: dict[str, int]  # name -> width
    ops: tuple[Op, ...]
    vocab_size: int
    tensors: Mapping[str, QTensor] = field(repr=False)  # may make a tensor when it is asked for: read each once


@dataclass(frozen=True)
class Batch:
    """One ragged batch. Tokens of a sequence are contiguous and their positions ascend by one.

    page_tables[b, p] is the page that holds positions [p * page_size, (p + 1) * page_size) of sequence b; entries
    beyond the sequence's last page are ignored. Positions before the batch's first token of a sequence must have been
    stored by earlier batches (or by another sequence that shares the page).
    """

    token_ids: npt.NDArray[np.int32]  # [T]
    positions: npt.NDArray[np.int32]  # [T]
    seq_starts: npt.NDArray[np.int32]  # [B + 1], seq_starts[B] == T
    page_tables: npt.NDArray[np.int32]  # [B, max pages]
    logit_rows: npt.NDArray[np.int32]  # [L], rows of the batch whose logits are wanted

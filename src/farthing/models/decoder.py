"""One description of every decoder: which tensors a config needs, and the plan that computes it.

Tensor names here are ours: `embed`, `final_norm`, `head`, and `layers.N.` + attention_norm q k v o mlp_norm gate up
down, each projection with a `_bias` where the config has one, q_norm and k_norm where q and k are normed,
post_attention_norm and post_mlp_norm where what is added to the residual stream is normed. A sparse
layer has router and experts.E.gate, up, down instead of gate up down, perhaps shared_router shared_gate, up, down.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from farthing.kernels.plan import (
    Add,
    Attention,
    Embed,
    GeGLU,
    Head,
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
from farthing.models.config import ModelConfig
from farthing.models.experts import ExpertsConfig, expert_shapes
from farthing.models.rope import inv_freq, rope_inv_freq

__all__ = ["LastLayer", "build_plan", "tensor_shapes"]

LastLayer = Literal["all", "wanted", "but for queries"]  # the tokens that it computes, see build_plan

F32 = npt.NDArray[np.float32]


def tensor_shapes(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """(name, rows, cols) of each tensor the plan needs; vectors have rows = 1. Lazy: a config may lie about sizes."""
    hidden = config.hidden_size
    yield "embed", config.vocab_size, hidden
    yield "final_norm", 1, hidden
    if not config.is_tied_head:
        yield "head", config.num_outputs, hidden
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    has_qkv, has_o, has_mlp = config.has_qkv_bias, config.has_o_bias, config.has_mlp_bias
    projections = (
        ("q", q_size, hidden, has_qkv),
        ("k", kv_size, hidden, has_qkv),
        ("v", kv_size, hidden, has_qkv),
        ("o", hidden, q_size, has_o),
    )
    mlp = (
        ("gate", config.intermediate_size, hidden, has_mlp),
        ("up", config.intermediate_size, hidden, has_mlp),
        ("down", hidden, config.intermediate_size, has_mlp),
    )
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        experts = config.experts if config.experts and config.experts.is_sparse(layer) else None
        yield prefix + "attention_norm", 1, hidden
        yield prefix + "mlp_norm", 1, hidden
        if config.has_post_norms:
            yield prefix + "post_attention_norm", 1, hidden
            yield prefix + "post_mlp_norm", 1, hidden
        for name, rows, cols, has_bias in projections if experts else projections + mlp:
            yield prefix + name, rows, cols
            if has_bias:
                yield f"{prefix}{name}_bias", 1, rows
        if config.has_qk_norm:
            yield prefix + "q_norm", 1, q_size if config.is_qk_norm_whole else config.head_dim
            yield prefix + "k_norm", 1, kv_size if config.is_qk_norm_whole else config.head_dim
        for name, rows, cols in expert_shapes(experts, hidden) if experts else ():
            yield prefix + name, rows, cols


def build_plan(
    config: ModelConfig, tensors: Mapping[str, QTensor], product: Product = "f32", *, last_layer: LastLayer = "all"
) -> Plan:
    """The operations of `config` on `tensors` (our names; vectors in f32).

    last_layer: which tokens it computes. all; or, behind its keys and values, those alone whose logits are wanted; of
    "but for queries" these are computed of all tokens, in one product with keys and values: a tenth of the layer more
    for a prompt, and two operations less for a step in which every token is wanted. The logits are the same.

    An optional tensor `rope_factors` [1, head_dim / 2] divides the rotary frequencies (Llama-3 GGUFs).
    """
    radians = rope_inv_freq(config)  # [head_dim / 2]
    if "rope_factors" in tensors:
        radians /= tensors["rope_factors"].data.view(np.float32)
    frequencies = {"rope_inv_freq": _vector(radians)}
    if config.sliding:
        frequencies["sliding_rope_inv_freq"] = _vector(inv_freq(config.head_dim, config.sliding.rope_theta))
    q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    mlp_size = _mlp_size(config)
    buffers = {
        "hidden": config.hidden_size,  # the residual stream
        "normed": config.hidden_size,
        "qkv": q_size + 2 * kv_size,
        "attended": q_size,
    }
    if mlp_size:
        buffers |= {"gate_up": 2 * mlp_size, "mlp": mlp_size}
    if config.experts:
        buffers |= {"router": config.experts.num_experts, "shared_router": 1}
    hidden, normed = View("hidden", 0, config.hidden_size), View("normed", 0, config.hidden_size)
    ops: list[Op] = [Embed(hidden, "embed", config.embed_scale)]
    last = config.num_layers - 1
    for layer in range(config.num_layers):
        ops += _Layer(config, layer, product, tokens=last_layer if layer == last else "all").ops()
    if last_layer != "all":
        buffers["taken"] = config.hidden_size + q_size
        hidden = View("taken", 0, config.hidden_size)
    ops.append(RmsNorm(hidden, normed, "final_norm", config.rms_norm_eps, config.hidden_size))
    # Few rows decide a classifier's answer: they are not multiplied by codes.
    head_product: Product = "f32" if config.labels else product
    ops.append(Head(normed, "embed" if config.is_tied_head else "head", product=head_product))
    return Plan(buffers, tuple(ops), config.vocab_size, _Overlay(frequencies, tensors))


def _vector(values: F32) -> QTensor:
    return QTensor("f32", 1, len(values), values.view(np.uint8))


def _mlp_size(config: ModelConfig) -> int:
    """Of the widest feed-forward that every token goes through; 0 where experts are all there is."""
    experts = config.experts
    if experts is None:
        return config.intermediate_size
    is_dense = not all(experts.is_sparse(layer) for layer in range(config.num_layers))
    return max(config.intermediate_size if is_dense else 0, experts.shared_intermediate_size)


class _Overlay(Mapping[str, QTensor]):
    """`tensors` and a few more; nothing is read, and so nothing re-blocked, before it is asked for."""

    def __init__(self, more: Mapping[str, QTensor], tensors: Mapping[str, QTensor]) -> None:
        self._more, self._tensors = more, tensors

    def __getitem__(self, name: str) -> QTensor:
        return self._more[name] if name in self._more else self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._more
        yield from self._tensors

    def __len__(self) -> int:
        return len(self._more) + len(self._tensors)


class _Layer:
    """The operations of one layer, and how they name its tensors and columns.

    tokens: of others than "all" it goes on in the buffer "taken" behind its keys and values.
    """

    def __init__(self, config: ModelConfig, layer: int, product: Product, *, tokens: LastLayer = "all") -> None:
        self.config, self.layer, self.product, self.tokens = config, layer, product, tokens
        self.prefix = f"layers.{layer}."
        self.hidden, self.normed = View("hidden", 0, config.hidden_size), View("normed", 0, config.hidden_size)

    def ops(self) -> Iterator[Op]:
        config, p = self.config, self.prefix
        yield from self.attention()
        yield RmsNorm(self.hidden, self.normed, p + "mlp_norm", config.rms_norm_eps, config.hidden_size)
        if config.experts and config.experts.is_sparse(self.layer):
            yield from self.sparse(config.experts)
        else:
            yield from self.mlp("gate up", "down", config.intermediate_size, config.has_mlp_bias)

    def attention(self) -> Iterator[Op]:
        config, d = self.config, self.config.head_dim
        q_size, kv_size = config.num_heads * d, config.num_kv_heads * d
        q, k, v = View("qkv", 0, q_size), View("qkv", q_size, kv_size), View("qkv", q_size + kv_size, kv_size)
        attended = View("attended", 0, q_size)
        window, scale = config.window_of(self.layer), config.attention_scale or d**-0.5
        yield self.attention_norm()
        if self.tokens == "wanted":
            yield self.linear(self.normed, View("qkv", q_size, 2 * kv_size), "k v", config.has_qkv_bias)
            yield from self.turned(k_norm=k)
        else:
            yield self.linear(self.normed, View("qkv", 0, q_size + 2 * kv_size), "q k v", config.has_qkv_bias)
            yield from self.turned(q_norm=q, k_norm=k)
        yield StoreKV(self.layer, k, v)
        taken, taken_q = View("taken", 0, config.hidden_size), View("taken", config.hidden_size, q_size)
        if self.tokens == "but for queries":
            yield Take(((self.hidden, taken), (q, taken_q)))
            self.hidden, q = taken, taken_q
        elif self.tokens == "wanted":
            yield Take(((self.hidden, taken),))
            self.hidden = taken
            yield self.attention_norm()
            yield self.linear(self.normed, q, "q", config.has_qkv_bias)
            yield from self.turned(q_norm=q)
        yield Attention(self.layer, q, attended, config.num_heads, scale, window)
        yield from self.added(attended, "o", config.has_o_bias, "post_attention_norm")

    def attention_norm(self) -> RmsNorm:
        name, config = self.prefix + "attention_norm", self.config
        return RmsNorm(self.hidden, self.normed, name, config.rms_norm_eps, config.hidden_size)

    def turned(self, **views: View) -> Iterator[Op]:
        """q and k, by the names of their norms: normed, where the config has that, and turned by their positions."""
        config, d = self.config, self.config.head_dim
        for norm, view in views.items() if config.has_qk_norm else ():
            group = view.width if config.is_qk_norm_whole else d
            yield RmsNorm(view, view, self.prefix + norm, config.rms_norm_eps, group)
        inv_freq = "rope_inv_freq" if config.window_of(self.layer) is None else "sliding_rope_inv_freq"
        for view in views.values():
            yield Rope(view, d, inv_freq, config.rope_style)

    def mlp(self, gate_and_up: str, down: str, size: int, has_bias: bool, by: View | None = None) -> Iterator[Op]:
        """A feed-forward of `size` added to the residual stream, scaled by the sigmoid of `by` where that is given."""
        gate_up, mlp = View("gate_up", 0, 2 * size), View("mlp", 0, size)
        yield self.linear(self.normed, gate_up, gate_and_up, has_bias)
        activate = SwiGLU if self.config.activation == "silu" else GeGLU
        yield activate(View("gate_up", 0, size), View("gate_up", size, size), mlp)
        if by is not None:
            yield SigmoidScale(mlp, by)
        yield from self.added(mlp, down, has_bias, "post_mlp_norm")

    def added(self, src: View, name: str, has_bias: bool, norm: str) -> Iterator[Op]:
        """The product of `src` with a weight, added to the residual stream, through a norm where the config has one."""
        if not self.config.has_post_norms:
            yield self.linear(src, self.hidden, name, has_bias, is_added=True)
            return
        yield self.linear(src, self.normed, name, has_bias)
        yield RmsNorm(self.normed, self.normed, self.prefix + norm, self.config.rms_norm_eps, self.config.hidden_size)
        yield Add(self.normed, self.hidden)

    def sparse(self, experts: ExpertsConfig) -> Iterator[Op]:
        """Routers are never quantized on the way: which experts a token takes hangs on a hair."""
        logits, shared_logit = View("router", 0, experts.num_experts), View("shared_router", 0, 1)
        yield self.linear(self.normed, logits, "router", False, product="f32")
        gates, ups, downs = (
            tuple(f"{self.prefix}experts.{e}.{part}" for e in range(experts.num_experts))
            for part in ("gate", "up", "down")
        )
        yield Moe(self.normed, logits, self.hidden, experts.rule, gates, ups, downs, None, self.product)
        if experts.shared_intermediate_size:
            yield self.linear(self.normed, shared_logit, "shared_router", False, product="f32")
            size = experts.shared_intermediate_size
            yield from self.mlp("shared_gate shared_up", "shared_down", size, False, by=shared_logit)

    def linear(
        self,
        src: View,
        dst: View,
        names: str,
        has_bias: bool,
        *,
        is_added: bool = False,
        product: Product | None = None,
    ) -> Linear:
        weights = tuple(self.prefix + name for name in names.split())
        biases = tuple(f"{weight}_bias" if has_bias else None for weight in weights)
        return Linear(src, dst, weights, biases, is_added, product or self.product)

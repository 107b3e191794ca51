"""gemma3: Gemma 3, text. Norms before and after attention and feed-forward, gelu in place of silu, an embedding scaled
by sqrt(hidden_size) (not rounded to bfloat16, as by transformers in float32), and most layers see only a window."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.models import qwen3
from farthing.models.config import Architecture, rope_of_hf
from farthing.models.fields import Fields
from farthing.models.sliding import sliding_of_gguf, sliding_of_hf

__all__ = ["ARCHITECTURE"]

HF_TENSORS = {
    **qwen3.HF_TENSORS,
    "post_attention_norm": "model.layers.{}.post_attention_layernorm.weight",
    "mlp_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
    "post_mlp_norm": "model.layers.{}.post_feedforward_layernorm.weight",
}
GGUF_TENSORS = {
    **qwen3.GGUF_TENSORS,
    "post_attention_norm": "blk.{}.post_attention_norm.weight",
    "post_mlp_norm": "blk.{}.post_ffw_norm.weight",
}
PATTERN = 6  # every so many layers sees the whole past, where the file does not say
GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
LAYERS_OF_27B = 62  # whose scale is of another rule, and GGUF does not say so


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    if config.text("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        found = config.text("hidden_activation")
        raise UnsupportedModel(f"{config.place}: hidden_activation is {found!r}; supported: gelu_pytorch_tanh")
    if config.flag("use_bidirectional_attention", False):
        raise UnsupportedModel(f"{config.place}: use_bidirectional_attention is true; supported: causal attention")
    _refuse_capping(config, "attn_logit_softcapping", "final_logit_softcapping")
    has_bias = config.flag("attention_bias", False)
    theta, local_theta, scaling = _hf_ropes(config)
    return {
        **_shared(config.integer("hidden_size")),
        "has_qkv_bias": has_bias,
        "has_o_bias": has_bias,
        "head_dim": config.integer("head_dim", 256),
        "is_tied_head": config.flag("tie_word_embeddings", True),
        "attention_scale": _positive(config, "query_pre_attn_scalar", 256.0) ** -0.5,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "sliding": sliding_of_hf(config, window=4096, pattern=PATTERN, rope_theta=local_theta),
    }


def _hf_ropes(config: Fields) -> tuple[float, float, Any]:
    """rope_theta of layers that see everything, that of others, and the scaling of the former. transformers 5 has an
    object for each kind of layer; before, there were three keys."""
    kinds = config.section("rope_parameters")
    if kinds is None:
        theta = config.number("rope_theta", GLOBAL_THETA)
        rope = config.section("rope_scaling")
        theta, scaling = (theta, None) if rope is None else rope_of_hf(rope, theta)
        return theta, config.number("rope_local_base_freq", LOCAL_THETA), scaling
    whole, local = kinds.section("full_attention"), kinds.section("sliding_attention")
    theta, scaling = (GLOBAL_THETA, None) if whole is None else rope_of_hf(whole, GLOBAL_THETA)
    local_theta, local_scaling = (LOCAL_THETA, None) if local is None else rope_of_hf(local, LOCAL_THETA)
    if local_scaling is not None:
        raise UnsupportedModel(f"{kinds.place}: sliding_attention is scaled; supported: rope_type default")
    return theta, local_theta, scaling


def _gguf_flags(fields: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    _refuse_capping(fields, "attn_logit_softcapping", "final_logit_softcapping")
    num_layers, hidden, num_heads = (
        fields.integer(key) for key in ("block_count", "embedding_length", "attention.head_count")
    )
    head_dim = fields.integer("attention.key_length", hidden // num_heads)
    scaled = hidden // num_heads if num_layers == LAYERS_OF_27B else head_dim
    return {
        **_shared(hidden),
        "has_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "has_o_bias": "blk.0.attn_output.bias" in tensors,
        "attention_scale": _positive(fields, "attention.scale", scaled**-0.5),
        "rope_theta": fields.number("rope.freq_base", GLOBAL_THETA),
        "sliding": sliding_of_gguf(fields, pattern=PATTERN, rope_theta=LOCAL_THETA),
    }


def _shared(hidden_size: int) -> dict[str, Any]:
    return {
        "has_qk_norm": True,
        "has_post_norms": True,
        "activation": "gelu_tanh",
        "embed_scale": max(hidden_size, 1) ** 0.5,
    }


def _positive(fields: Fields, key: str, default: float) -> float:
    value = fields.number(key, default)
    if value <= 0:
        raise CorruptModel(f"{fields.place}: {fields.prefix}{key} is {value}; allowed: above 0")
    return value


def _refuse_capping(fields: Fields, *keys: str) -> None:
    for key in keys:
        if fields.number(key, 0.0):
            raise UnsupportedModel(f"{fields.place}: {fields.prefix}{key} is {fields.number(key)}; supported: none")


ARCHITECTURE = Architecture(
    ("gemma3_text",), ("gemma3",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS, hf_norm_offset=1.0
)

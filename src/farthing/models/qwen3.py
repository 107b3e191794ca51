"""qwen3: Qwen 3, dense. Llama's form with an RMS norm on each head of q and k, and a head_dim of its own."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.models import llama
from farthing.models.config import Architecture
from farthing.models.fields import Fields
from farthing.models.qwen2 import refuse_sliding_window

__all__ = ["ARCHITECTURE"]

HF_TENSORS = {
    **llama.HF_TENSORS,
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
}
GGUF_TENSORS = {
    **llama.GGUF_TENSORS,
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
}


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    refuse_sliding_window(config)
    has_bias = config.flag("attention_bias", False)
    # Qwen 3 defaults to 128 whatever hidden_size / num_heads is.
    return {
        "has_qk_norm": True,
        "has_qkv_bias": has_bias,
        "has_o_bias": has_bias,
        "head_dim": config.integer("head_dim", 128),
    }


def _gguf_flags(_: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    return {
        "has_qk_norm": True,
        "has_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "has_o_bias": "blk.0.attn_output.bias" in tensors,
    }


ARCHITECTURE = Architecture(("qwen3",), ("qwen3",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS)

"""qwen3_moe: Qwen 3 with experts and no shared one; whether the chosen weights are brought to a sum of 1 is a flag of
the config (true in every model there is, and in GGUF). Some layers may be dense."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.models import olmoe, qwen2
from farthing.models.config import Architecture
from farthing.models.experts import experts_of_gguf, experts_of_hf
from farthing.models.fields import Fields

__all__ = ["ARCHITECTURE"]


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    qwen2.refuse_sliding_window(config)
    has_bias = config.flag("attention_bias", False)
    experts = experts_of_hf(
        config,
        size="moe_intermediate_size",
        is_renormalised=config.flag("norm_topk_prob", False),
        has_dense_layers=True,
    )
    return {"has_qk_norm": True, "has_qkv_bias": has_bias, "has_o_bias": has_bias, "experts": experts}


def _gguf_flags(fields: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    dense = fields.integer("feed_forward_length")  # files from before the key say it in this one
    size = fields.integer("expert_feed_forward_length", dense // max(1, fields.integer("expert_used_count")))
    experts = experts_of_gguf(fields, tensors, size=size, is_renormalised=True)
    return {
        "has_qk_norm": True,
        "has_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "has_o_bias": "blk.0.attn_output.bias" in tensors,
        "experts": experts,
    }


ARCHITECTURE = Architecture(
    ("qwen3_moe",), ("qwen3moe",), _hf_flags, _gguf_flags, olmoe.HF_TENSORS, olmoe.GGUF_TENSORS, is_sparse=True
)

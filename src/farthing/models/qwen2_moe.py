"""qwen2_moe: Qwen 1.5 and 2 with experts, weights as the gate's softmax has them, and one more expert that every token
takes, scaled by a sigmoid. Some layers may be dense."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.models import mixtral, olmoe, qwen2
from farthing.models.config import Architecture
from farthing.models.experts import experts_of_gguf, experts_of_hf
from farthing.models.fields import Fields

__all__ = ["ARCHITECTURE"]

HF_TENSORS = {
    **olmoe.HF_TENSORS,
    "shared_router": "model.layers.{}.mlp.shared_expert_gate.weight",
    **{f"shared_{ours}": f"model.layers.{{}}.mlp.shared_expert.{ours}_proj.weight" for ours in ("gate", "up", "down")},
}
GGUF_TENSORS = {
    **mixtral.GGUF_TENSORS,
    "shared_router": "blk.{}.ffn_gate_inp_shexp.weight",
    **{f"shared_{ours}": f"blk.{{}}.ffn_{ours}_shexp.weight" for ours in ("gate", "up", "down")},
}


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    qwen2.refuse_sliding_window(config)
    experts = experts_of_hf(
        config,
        size="moe_intermediate_size",
        is_renormalised=config.flag("norm_topk_prob", False),
        shared_size=config.integer("shared_expert_intermediate_size", 5632),
        has_dense_layers=True,
    )
    return {"has_qkv_bias": config.flag("qkv_bias", True), "experts": experts}


def _gguf_flags(fields: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    dense = fields.integer("feed_forward_length")  # files from before the two keys say all in this one
    size = fields.integer("expert_feed_forward_length", dense // max(1, fields.integer("expert_used_count")))
    shared = fields.integer("expert_shared_feed_forward_length", dense)
    experts = experts_of_gguf(fields, tensors, size=size, is_renormalised=False, shared_size=shared)
    return {"has_qkv_bias": "blk.0.attn_q.bias" in tensors, "experts": experts}


ARCHITECTURE = Architecture(
    ("qwen2_moe",), ("qwen2moe",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS, is_sparse=True
)

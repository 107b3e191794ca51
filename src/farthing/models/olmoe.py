"""olmoe: a mixture of experts in every layer, whose weights are the gate's softmax as it is (they sum to less than 1),
and an RMS norm over all heads of q together, and of k."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import UnsupportedModel
from farthing.models import mixtral, qwen3
from farthing.models.config import Architecture
from farthing.models.experts import experts_of_gguf, experts_of_hf
from farthing.models.fields import Fields

__all__ = ["ARCHITECTURE", "GGUF_TENSORS", "HF_TENSORS"]

HF_TENSORS = {
    **qwen3.HF_TENSORS,
    "router": "model.layers.{}.mlp.gate.weight",
    **{f"experts.{ours}": f"model.layers.{{}}.mlp.experts.{{}}.{ours}_proj.weight" for ours in ("gate", "up", "down")},
}
GGUF_TENSORS = {**qwen3.GGUF_TENSORS, **mixtral.GGUF_TENSORS}
_FLAGS = {"has_qk_norm": True, "is_qk_norm_whole": True}


def _refuse_clipping(fields: Fields, key: str) -> None:
    if fields.number(key, 0.0):
        raise UnsupportedModel(f"{fields.place}: {fields.prefix}{key} is {fields.number(key)}; supported: no clipping")


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    _refuse_clipping(config, "clip_qkv")
    has_bias, is_renormalised = config.flag("attention_bias", False), config.flag("norm_topk_prob", False)
    experts = experts_of_hf(config, size="intermediate_size", is_renormalised=is_renormalised)
    return {**_FLAGS, "has_qkv_bias": has_bias, "has_o_bias": has_bias, "experts": experts}


def _gguf_flags(fields: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    _refuse_clipping(fields, "attention.clamp_kqv")
    size = fields.integer("feed_forward_length")
    return {**_FLAGS, "experts": experts_of_gguf(fields, tensors, size=size, is_renormalised=False)}


ARCHITECTURE = Architecture(("olmoe",), ("olmoe",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS, is_sparse=True)

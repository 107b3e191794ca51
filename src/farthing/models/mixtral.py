"""mixtral: Llama's form with a mixture of experts in every layer; the chosen weights of its gate's softmax are brought
to a sum of 1. GGUF calls it llama, with experts."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import UnsupportedModel
from farthing.models import llama
from farthing.models.config import Architecture
from farthing.models.experts import experts_of_gguf, experts_of_hf
from farthing.models.fields import Fields

__all__ = ["ARCHITECTURE", "GGUF_TENSORS"]

HF_TENSORS = {
    **llama.HF_TENSORS,
    "router": "model.layers.{}.block_sparse_moe.gate.weight",
    "experts.gate": "model.layers.{}.block_sparse_moe.experts.{}.w1.weight",
    "experts.up": "model.layers.{}.block_sparse_moe.experts.{}.w3.weight",
    "experts.down": "model.layers.{}.block_sparse_moe.experts.{}.w2.weight",
}
# Experts lie in one tensor; `models/gguf_experts.py` cuts it and numbers the pieces.
GGUF_TENSORS = {
    **llama.GGUF_TENSORS,
    "router": "blk.{}.ffn_gate_inp.weight",
    "experts.gate": "blk.{}.ffn_gate_exps.weight.{}",
    "experts.up": "blk.{}.ffn_up_exps.weight.{}",
    "experts.down": "blk.{}.ffn_down_exps.weight.{}",
}


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    window = config.integer("sliding_window", 0)
    if 0 < window < config.integer("max_position_embeddings", 2048):
        raise UnsupportedModel(f"{config.place}: sliding_window is {window}; supported: attention over the whole past")
    return {"experts": experts_of_hf(config, size="intermediate_size", is_renormalised=True)}


def _gguf_flags(fields: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    size = fields.integer("feed_forward_length")
    return {"rope_style": "interleaved", "experts": experts_of_gguf(fields, tensors, size=size, is_renormalised=True)}


ARCHITECTURE = Architecture(("mixtral",), ("llama",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS, is_sparse=True)

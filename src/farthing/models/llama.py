"""llama: Llama 1 to 3, SmolLM2 and all that share their form. GGUF stores q and k for interleaved pairs."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.models.config import Architecture
from farthing.models.fields import Fields

__all__ = ["ARCHITECTURE"]

PROJECTIONS = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
MLP = {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}

HF_TENSORS = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    **{ours: f"model.layers.{{}}.self_attn.{ours}_proj.weight" for ours in PROJECTIONS},
    **{f"{ours}_bias": f"model.layers.{{}}.self_attn.{ours}_proj.bias" for ours in PROJECTIONS},
    **{ours: f"model.layers.{{}}.mlp.{ours}_proj.weight" for ours in MLP},
    **{f"{ours}_bias": f"model.layers.{{}}.mlp.{ours}_proj.bias" for ours in MLP},
}
GGUF_TENSORS = {
    "embed": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "rope_factors": "rope_freqs.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "mlp_norm": "blk.{}.ffn_norm.weight",
    **{ours: f"blk.{{}}.{theirs}.weight" for ours, theirs in (PROJECTIONS | MLP).items()},
    **{f"{ours}_bias": f"blk.{{}}.{theirs}.bias" for ours, theirs in (PROJECTIONS | MLP).items()},
}


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    has_bias = config.flag("attention_bias", False)
    return {"has_qkv_bias": has_bias, "has_o_bias": has_bias, "has_mlp_bias": config.flag("mlp_bias", False)}


def _gguf_flags(_: Fields, tensors: Collection[str]) -> Mapping[str, Any]:
    return {
        "rope_style": "interleaved",
        "has_qkv_bias": "blk.0.attn_q.bias" in tensors,
        "has_o_bias": "blk.0.attn_output.bias" in tensors,
        "has_mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


ARCHITECTURE = Architecture(("llama",), ("llama",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS)

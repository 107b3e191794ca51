"""qwen2: Qwen 2 and 2.5, dense. Llama's form with biases on q, k and v; GGUF keeps q and k as they are (half style)."""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import UnsupportedModel
from farthing.models.config import Architecture
from farthing.models.fields import Fields
from farthing.models.llama import GGUF_TENSORS, HF_TENSORS

__all__ = ["ARCHITECTURE", "refuse_sliding_window"]


def refuse_sliding_window(config: Fields) -> None:
    """Raises UnsupportedModel where some layers see only a window of the past."""
    if config.flag("use_sliding_window", False):
        raise UnsupportedModel(f"{config.place}: use_sliding_window is true; supported: attention over the whole past")


def _hf_flags(config: Fields) -> Mapping[str, Any]:
    refuse_sliding_window(config)
    return {"has_qkv_bias": True}


def _gguf_flags(_: Fields, __: Collection[str]) -> Mapping[str, Any]:
    return {"has_qkv_bias": True}


ARCHITECTURE = Architecture(("qwen2",), ("qwen2",), _hf_flags, _gguf_flags, HF_TENSORS, GGUF_TENSORS)

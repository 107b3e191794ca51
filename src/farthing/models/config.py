"""What a model is: one frozen dataclass of sizes and flags, read from config.json or from GGUF metadata.

An architecture is one file of this package (`llama.py`, ...) with an `ARCHITECTURE`: the names it answers to, the
flags that are its own, and how the file calls the tensors. Everything shared is here.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Literal

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.models.experts import ExpertsConfig
from farthing.models.fields import Fields
from farthing.models.labels import labels_of_gguf, labels_of_hf
from farthing.models.sliding import SlidingConfig

__all__ = ["Architecture", "ModelConfig", "RopeScaling", "config_from_gguf", "config_from_hf", "rope_of_hf"]

RopeStyle = Literal["half", "interleaved"]
Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for a longer context: "linear" divides all of them by `factor`; "llama3"
    divides the low ones, keeps the high ones, and blends between (Llama 3.1, arXiv 2407.21783)."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        _need(1 <= self.factor < math.inf, "rope_scaling.factor", self.factor, "1 or more")
        if self.kind == "llama3":
            _need(self.low_freq_factor > 0, "rope_scaling.low_freq_factor", self.low_freq_factor, "above 0")
            above = f"above low_freq_factor ({self.low_freq_factor})"
            ok = math.isfinite(self.high_freq_factor) and self.high_freq_factor > self.low_freq_factor
            _need(ok, "rope_scaling.high_freq_factor", self.high_freq_factor, above)
            length = self.original_max_position_embeddings
            _need(length >= 1, "rope_scaling.original_max_position_embeddings", length, "1 or more")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and flags of a decoder. Raises CorruptModel naming the field that cannot be."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int  # of dense layers
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float = 10000.0
    rope_style: RopeStyle = "half"
    rope_scaling: RopeScaling | None = None
    has_qkv_bias: bool = False
    has_o_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    is_qk_norm_whole: bool = False  # over all heads together instead of each
    has_post_norms: bool = False  # after attention and after the feed-forward, before each is added
    is_tied_head: bool = False
    embed_scale: float = 1.0
    attention_scale: float | None = None  # None: head_dim ** -0.5
    activation: Activation = "silu"  # of a feed-forward's gate
    experts: ExpertsConfig | None = None  # of layers that are mixtures of experts
    sliding: SlidingConfig | None = None  # layers that see only a window of the past
    labels: tuple[str, ...] = ()  # of a classifier, whose head has a row for each; () where it continues text

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"):
            _need(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("intermediate_size", "max_position_embeddings"):
            _need(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        whole = self.num_heads % self.num_kv_heads == 0
        _need(whole, "num_kv_heads", self.num_kv_heads, f"a divisor of num_heads ({self.num_heads})")
        _need(self.head_dim % 2 == 0, "head_dim", self.head_dim, "an even number")
        if self.head_dim % 8:  # a vector of the kernels holds eight floats of one head
            raise UnsupportedModel(f"the model's head_dim is {self.head_dim}; supported: multiples of 8")
        _need(0 < self.rms_norm_eps < 1, "rms_norm_eps", self.rms_norm_eps, "between 0 and 1")
        _need(1 < self.rope_theta < math.inf, "rope_theta", self.rope_theta, "above 1")
        if self.attention_scale is not None:
            _need(0 < self.attention_scale < math.inf, "attention_scale", self.attention_scale, "above 0")

    def window_of(self, layer: int) -> int | None:
        """How many positions a token sees in this layer, its own the last; None is the whole past."""
        return self.sliding.window if self.sliding and layer in self.sliding.layers else None

    @property
    def windows(self) -> tuple[int | None, ...]:
        """`window_of` each layer; empty where all see the whole past."""
        return tuple(map(self.window_of, range(self.num_layers))) if self.sliding else ()

    @property
    def num_outputs(self) -> int:
        """Rows of the head: a logit for each token of the vocabulary, or for each label."""
        return len(self.labels) or self.vocab_size

    @property
    def num_sparse_layers(self) -> int:
        """Layers that are mixtures of experts."""
        return 0 if self.experts is None else sum(map(self.experts.is_sparse, range(self.num_layers)))


@dataclass(frozen=True)
class Architecture:
    """What one file of this package knows: its names, its flags, and what its files call the tensors.

    `hf_flags(config)` and `gguf_flags(metadata, tensor_names)` return the ModelConfig fields that are this
    architecture's own. Tensor names map ours (`layers.0.q`) to the file's; `{}` stands for the layer, a second one for
    the expert.
    """

    model_types: tuple[str, ...]  # `model_type` of config.json
    gguf_names: tuple[str, ...]  # `general.architecture` of GGUF
    hf_flags: Callable[[Fields], Mapping[str, Any]]
    gguf_flags: Callable[[Fields, Collection[str]], Mapping[str, Any]]
    hf_tensors: Mapping[str, str]
    gguf_tensors: Mapping[str, str]
    is_sparse: bool = False  # a mixture of experts: GGUF calls Mixtral "llama" too
    hf_norm_offset: float = 0.0  # what safetensors leave out of every norm's weight; GGUF has it in


def config_from_hf(architecture: Architecture, raw: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a Hugging Face config.json. Raises CorruptModel, UnsupportedModel."""
    fields = Fields(raw, "config.json")
    if fields.text("hidden_act", "silu") not in ("silu", "swish"):
        raise UnsupportedModel(f"config.json: hidden_act is {raw['hidden_act']!r}; supported: silu")
    num_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    theta, scaling = _hf_rope(fields)
    common = {
        "architecture": fields.text("model_type"),
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": hidden_size,
        "num_layers": fields.integer("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": fields.integer("num_key_value_heads", num_heads),
        "head_dim": fields.integer("head_dim", _default_head_dim(hidden_size, num_heads)),
        "intermediate_size": fields.integer("intermediate_size"),
        "max_position_embeddings": fields.integer("max_position_embeddings", 2048),
        "rms_norm_eps": fields.number("rms_norm_eps", 1e-6),
        "rope_theta": theta,
        "rope_style": "half",
        "rope_scaling": scaling,
        "is_tied_head": fields.flag("tie_word_embeddings", False),
    }
    return ModelConfig(**{**common, **architecture.hf_flags(fields), **_head_flags(labels_of_hf(fields))})


def config_from_gguf(architecture: Architecture, metadata: Mapping[str, Any], tensors: Collection[str]) -> ModelConfig:
    """The ModelConfig of a GGUF's metadata and tensor names. Raises CorruptModel, UnsupportedModel."""
    name = Fields(metadata, "the GGUF metadata").text("general.architecture")
    fields = Fields(metadata, "the GGUF metadata", prefix=f"{name}.")
    num_experts = fields.integer("expert_count", 0)
    if num_experts and not architecture.is_sparse:
        raise UnsupportedModel(f"{name} with {num_experts} experts; supported: dense models")
    num_heads = fields.integer("attention.head_count")
    hidden_size = fields.integer("embedding_length")
    head_dim = fields.integer("attention.key_length", _default_head_dim(hidden_size, num_heads))
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(key, head_dim) != head_dim:
            raise UnsupportedModel(f"{name}.{key} is {fields.integer(key)}; supported: the key length, {head_dim}")
    common = {
        "architecture": name,
        "vocab_size": fields.integer("vocab_size", _num_tokens(metadata)),
        "hidden_size": hidden_size,
        "num_layers": fields.integer("block_count"),
        "num_heads": num_heads,
        "num_kv_heads": fields.integer("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": fields.integer("feed_forward_length"),
        "max_position_embeddings": fields.integer("context_length"),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.number("rope.freq_base", 10000.0),
        "rope_scaling": _gguf_rope_scaling(fields),
        "is_tied_head": "output.weight" not in tensors,
    }
    labels = labels_of_gguf(metadata, name, tensors)
    return ModelConfig(**{**common, **architecture.gguf_flags(fields, tensors), **_head_flags(labels)})


def _head_flags(labels: tuple[str, ...]) -> Mapping[str, Any]:
    """A classifier's head is its own, whatever the file says of the embedding."""
    return {"labels": labels, "is_tied_head": False} if labels else {}


def _num_tokens(metadata: Mapping[str, Any]) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, Sized) else 0


def _default_head_dim(hidden_size: int, num_heads: int) -> int:
    _need(num_heads >= 1, "num_heads", num_heads, "1 or more")
    return hidden_size // num_heads


def _hf_rope(fields: Fields) -> tuple[float, RopeScaling | None]:
    """rope_theta and scaling. transformers 5 writes both into `rope_parameters`; before, they were two keys."""
    rope = fields.section("rope_parameters") or fields.section("rope_scaling")
    theta = fields.number("rope_theta", 10000.0)
    return (theta, None) if rope is None else rope_of_hf(rope, theta)


def rope_of_hf(rope: Fields, theta: float) -> tuple[float, RopeScaling | None]:
    """rope_theta and scaling of one object; `theta` where it does not say. Raises UnsupportedModel, CorruptModel."""
    theta = rope.number("rope_theta", theta)
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel(f"{rope.place}: partial_rotary_factor other than 1 is not supported")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor"))
    if kind == "llama3":
        low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
        original = rope.integer("original_max_position_embeddings")
        return theta, RopeScaling("llama3", rope.number("factor"), low, high, original)
    raise UnsupportedModel(f"{rope.place}: rope_type is {kind!r}; supported: default, linear, llama3")


def _gguf_rope_scaling(fields: Fields) -> RopeScaling | None:
    """GGUF knows "linear" by name; Llama 3's scaling comes as a tensor of divisors, rope_freqs.weight."""
    legacy = fields.number("rope.scale_linear", 1.0)  # what older files write instead of a type and a factor
    kind = fields.text("rope.scaling.type", "linear" if legacy != 1.0 else "none")
    factor = fields.number("rope.scaling.factor", legacy)
    if kind not in ("none", "linear"):
        raise UnsupportedModel(f"{fields.prefix}rope.scaling.type is {kind!r}; supported: none, linear")
    return RopeScaling("linear", factor) if kind == "linear" else None


def _need(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise CorruptModel(f"the model's {name} is {value}; allowed: {allowed}")

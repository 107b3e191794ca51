"""config.json and GGUF metadata become one ModelConfig; what cannot be is an error that names the field."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.errors import CorruptModel, ModelError, UnsupportedModel
from farthing.models.architectures import architecture_of_gguf, architecture_of_hf, architectures
from farthing.models.config import ModelConfig, RopeScaling, config_from_gguf, config_from_hf
from tests.models.small import GOLDEN, SMALL, SPARSE

HF = {name: json.loads((GOLDEN / name / "config.json").read_text()) for name in SMALL}
GGUF = {
    "general.architecture": "llama",
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.block_count": 30,
    "llama.feed_forward_length": 1536,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 100000.0,
    "llama.rope.dimension_count": 64,
    "llama.vocab_size": 49152,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def from_hf(name: str, **changes: Any) -> ModelConfig:
    raw = {key: value for key, value in {**HF[name], **changes}.items() if value is not ...}
    return config_from_hf(architecture_of_hf(name), raw)


def from_gguf(tensors: tuple[str, ...] = ("output.weight",), **changes: Any) -> ModelConfig:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    raw = {key: value for key, value in {**GGUF, **changes}.items() if value is not ...}
    return config_from_gguf(architecture_of_gguf(raw["general.architecture"]), raw, tensors)


def test_flags_of_each_architecture() -> None:
    llama, qwen2, qwen3, _ = (from_hf(name) for name in SMALL)
    assert (llama.has_qkv_bias, llama.has_qk_norm, llama.is_tied_head) == (False, False, False)
    assert (qwen2.has_qkv_bias, qwen2.has_o_bias, qwen2.has_qk_norm, qwen2.is_tied_head) == (True, False, False, True)
    assert (qwen3.has_qkv_bias, qwen3.has_qk_norm, qwen3.head_dim, qwen3.hidden_size) == (False, True, 16, 32)
    assert from_hf("qwen3", head_dim=...).head_dim == 128  # the family's default, not hidden_size / num_heads
    assert from_hf("llama", attention_bias=True, mlp_bias=True).has_mlp_bias


def test_rope_as_transformers_5_and_as_before() -> None:
    scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    new = from_hf("llama", rope_parameters={"rope_theta": 5e5, **LLAMA3}, rope_theta=..., rope_scaling=...)
    old = from_hf("llama", rope_parameters=..., rope_theta=5e5, rope_scaling=LLAMA3)
    assert (new.rope_theta, new.rope_scaling) == (old.rope_theta, old.rope_scaling) == (5e5, scaling)
    linear = from_hf("llama", rope_parameters=..., rope_theta=..., rope_scaling={"type": "linear", "factor": 2.0})
    assert (linear.rope_theta, linear.rope_scaling) == (10000.0, RopeScaling("linear", 2.0))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("llama", {"head_dim": 12}, "multiples of 8"),
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window"),
    ],
)
def test_unsupported_features_are_named(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        from_hf(name, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"hidden_size": 0, "head_dim": 16}, "hidden_size is 0; allowed: 1 or more"),
        ({"hidden_size": "64"}, "hidden_size is '64'; allowed: a whole number"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers is 2.5"),
        ({"num_attention_heads": 0}, "num_heads is 0"),
        ({"num_key_value_heads": 3}, r"num_kv_heads is 3; allowed: a divisor of num_heads \(4\)"),
        ({"head_dim": 15}, "head_dim is 15; allowed: an even number"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps is 0.0"),
        ({"rope_parameters": {"rope_theta": -1.0}}, "rope_theta is -1.0"),
        ({"rope_parameters": LLAMA3 | {"factor": 0}}, "rope_scaling.factor"),
        ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "rope_scaling.high_freq_factor"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; allowed: true or false"),
        ({"vocab_size": 10**400}, "vocab_size"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CorruptModel, match=words):
        from_hf("llama", **changes)


JUNK = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers()))


@given(st.sampled_from(SMALL), st.data())
def test_any_value_makes_a_config_or_a_model_error(name: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(HF[name])))
    with suppress(ModelError):
        assert isinstance(from_hf(name, **{key: data.draw(JUNK)}), ModelConfig)


@given(st.sampled_from(sorted(GGUF.keys() - {"general.architecture"})), JUNK)
def test_any_metadata_makes_a_config_or_a_model_error(key: str, value: Any) -> None:
    with suppress(ModelError):
        assert isinstance(from_gguf(**{key: value}), ModelConfig)


def test_gguf_sizes_and_defaults() -> None:
    config = from_gguf()
    assert (config.hidden_size, config.head_dim, config.num_kv_heads, config.vocab_size) == (576, 64, 3, 49152)
    assert (config.rope_style, config.rope_theta, config.rope_scaling) == ("interleaved", 100000.0, None)
    assert not config.is_tied_head
    assert from_gguf(tensors=()).is_tied_head
    assert from_gguf(tensors=("blk.0.attn_q.bias",)).has_qkv_bias
    assert from_gguf(llama__attention__head_count_kv=...).num_kv_heads == 9
    assert from_gguf(llama__vocab_size=..., tokenizer__ggml__tokens=["a", "b"]).vocab_size == 2
    assert from_gguf(llama__attention__key_length=32, llama__rope__dimension_count=32).head_dim == 32


def test_gguf_rope_scaling() -> None:
    linear = from_gguf(llama__rope__scaling__type="linear", llama__rope__scaling__factor=4.0)
    assert linear.rope_scaling == RopeScaling("linear", 4.0)
    assert from_gguf(llama__rope__scale_linear=2.0).rope_scaling == RopeScaling("linear", 2.0)
    assert from_gguf(llama__rope__scaling__type="none", llama__rope__scaling__factor=4.0).rope_scaling is None
    with pytest.raises(UnsupportedModel, match="yarn"):
        from_gguf(llama__rope__scaling__type="yarn")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"llama__attention__head_count_kv": [3] * 30}, "differs per layer"),
        ({"llama__expert_count": 8}, "8 experts"),
        ({"llama__rope__dimension_count": 32}, "llama.rope.dimension_count is 32"),
    ],
)
def test_gguf_unsupported_features_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        from_gguf(**changes)


def test_architectures_are_found_by_name() -> None:
    assert {name for a in architectures() for name in a.model_types} == {*SMALL, *SPARSE}
    known = "gemma3_text, llama, mixtral, olmoe, qwen2, qwen2_moe, qwen3, qwen3_moe"
    with pytest.raises(UnsupportedModel, match=f"'gpt_neox' is not supported; supported: {known}"):
        architecture_of_hf("gpt_neox")
    known = "gemma3, llama, llama with experts, olmoe with experts, qwen2, qwen2moe with experts, "
    known += "qwen3, qwen3moe with experts"
    with pytest.raises(UnsupportedModel, match=f"'grok with experts' is not supported; supported: {known}"):
        architecture_of_gguf("grok", is_sparse=True)
    assert architecture_of_gguf("llama", is_sparse=True).model_types == ("mixtral",)

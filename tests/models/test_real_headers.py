"""The metadata of well-known GGUF files, key by key, and their sizes as their makers state them."""

from typing import Any

import pytest

from farthing.kernels.gates import GateRule
from farthing.models.architectures import architecture_of_gguf
from farthing.models.config import ModelConfig, config_from_gguf
from farthing.models.decoder import tensor_shapes

GENERAL = {
    "general.type": "model",
    "general.name": "some model",
    "general.size_label": "x",
    "general.license": "apache-2.0",
    "general.languages": ["en"],
    "general.tags": ["text-generation"],
    "general.file_type": 15,
    "general.quantization_version": 2,
    "split.count": 1,
}
OLMOE = {  # OLMoE-1B-7B-0924
    "block_count": 16,
    "context_length": 4096,
    "embedding_length": 2048,
    "feed_forward_length": 1024,
    "attention.head_count": 16,
    "attention.head_count_kv": 16,
    "rope.freq_base": 10000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "expert_count": 64,
    "expert_used_count": 8,
}
QWEN3_30B = {  # Qwen3-30B-A3B
    "block_count": 48,
    "context_length": 40960,
    "embedding_length": 2048,
    "feed_forward_length": 6144,
    "attention.head_count": 32,
    "attention.head_count_kv": 4,
    "rope.freq_base": 1000000.0,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "expert_used_count": 8,
    "attention.key_length": 128,
    "attention.value_length": 128,
    "expert_count": 128,
    "expert_feed_forward_length": 768,
}
MIXTRAL = {  # Mixtral-8x7B
    "block_count": 32,
    "context_length": 32768,
    "embedding_length": 4096,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "rope.freq_base": 1000000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "expert_count": 8,
    "expert_used_count": 2,
    "vocab_size": 32000,
    "rope.dimension_count": 128,
}
QWEN15_MOE = {  # Qwen1.5-MoE-A2.7B
    "block_count": 24,
    "context_length": 8192,
    "embedding_length": 2048,
    "feed_forward_length": 5632,
    "attention.head_count": 16,
    "attention.head_count_kv": 16,
    "rope.freq_base": 1000000.0,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "expert_used_count": 4,
    "expert_count": 60,
    "expert_feed_forward_length": 1408,
    "expert_shared_feed_forward_length": 5632,
}
GEMMA3_1B = {
    "context_length": 32768,
    "embedding_length": 1152,
    "block_count": 26,
    "feed_forward_length": 6912,
    "attention.head_count": 4,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "rope.freq_base": 1000000.0,
    "attention.sliding_window": 512,
    "attention.head_count_kv": 1,
}


def config_of(name: str, keys: dict[str, Any], num_tokens: int, tensors: tuple[str, ...]) -> ModelConfig:
    vocabulary = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"] * num_tokens}
    raw = {"general.architecture": name, **GENERAL, **vocabulary, **{f"{name}.{key}": v for key, v in keys.items()}}
    architecture = architecture_of_gguf(name, is_sparse="expert_count" in keys)
    return config_from_gguf(architecture, raw, tensors)


def num_parameters(config: ModelConfig) -> tuple[float, float]:
    """Of all and of those active, in billions."""
    sizes = {name: rows * cols for name, rows, cols in tensor_shapes(config)}
    of_experts = sum(size for name, size in sizes.items() if ".experts." in name)
    share = 1.0 if config.experts is None else config.experts.rule.top_k / config.experts.num_experts
    total = sum(sizes.values())
    return total / 1e9, (total - of_experts * (1 - share)) / 1e9


@pytest.mark.parametrize(
    ("name", "keys", "num_tokens", "rule", "total", "active"),
    [
        ("olmoe", OLMOE, 50304, GateRule("softmax", 8, False), 6.92, 1.28),
        ("qwen3moe", QWEN3_30B, 151936, GateRule("softmax", 8, True), 30.5, 3.3),
        ("llama", MIXTRAL, 32000, GateRule("softmax", 2, True), 46.7, 12.9),
        ("qwen2moe", QWEN15_MOE, 151936, GateRule("softmax", 4, False), 14.3, 2.7),
    ],
)
def test_mixtures(
    name: str, keys: dict[str, Any], num_tokens: int, rule: GateRule, total: float, active: float
) -> None:
    config = config_of(name, keys, num_tokens, ("output.weight", "blk.0.ffn_gate_inp.weight"))
    assert config.experts is not None
    assert config.experts.rule == rule
    assert config.num_sparse_layers == config.num_layers
    found = num_parameters(config)
    assert found == (pytest.approx(total, abs=0.06), pytest.approx(active, abs=0.06))


def test_experts_size_follows_where_older_files_leave_it_out() -> None:
    """A Qwen 3 converted before the key: feed_forward_length is that of the experts a token takes together."""
    keys = {key: value for key, value in QWEN3_30B.items() if key != "expert_feed_forward_length"}
    config = config_of("qwen3moe", keys, 151936, ("output.weight",))
    assert config.experts is not None
    assert config.experts.intermediate_size == 768


def test_gemma() -> None:
    config = config_of("gemma3", GEMMA3_1B, 262144, ())
    assert num_parameters(config)[0] == pytest.approx(1.0, abs=0.01)
    assert config.sliding is not None
    assert config.sliding.window == 512
    assert len(config.sliding.layers) == 22
    assert config.is_tied_head

"""Synthetic models for moe.py: OLMoE's layer (64 experts of 1024, 8 taken, hidden 2048) and a dense one of as many
parameters, random q4_0 weights made when they are asked for; written as a GGUF for llama.cpp."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers.pre_tokenizers import ByteLevel

from farthing.kernels.formats import format_of, row_bytes
from farthing.kernels.gates import GateRule
from farthing.kernels.plan import QTensor
from farthing.models import mixtral, qwen3
from farthing.models.config import ModelConfig
from farthing.models.decoder import tensor_shapes
from farthing.models.experts import ExpertsConfig

__all__ = ["RandomTensors", "active_bytes", "dense_config", "olmoe_config", "write_olmoe"]

HIDDEN, HEADS, VOCAB = 2048, 16, 16384
NAMES = {**qwen3.GGUF_TENSORS, **mixtral.GGUF_TENSORS}


def olmoe_config(num_layers: int, num_experts: int = 64, top_k: int = 8, size: int = 1024) -> ModelConfig:
    experts = ExpertsConfig(num_experts, size, GateRule("softmax", top_k))
    return _config("olmoe", num_layers, size, experts)


def dense_config(num_layers: int, like: ExpertsConfig) -> ModelConfig:
    """One feed-forward as wide as all of its experts together."""
    return _config("olmoe", num_layers, like.num_experts * like.intermediate_size, None)


def _config(name: str, num_layers: int, size: int, experts: ExpertsConfig | None) -> ModelConfig:
    return ModelConfig(
        architecture=name,
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_layers=num_layers,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=HIDDEN // HEADS,
        intermediate_size=size,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        has_qk_norm=True,
        is_qk_norm_whole=True,
        experts=experts,
    )


@dataclass(frozen=True)
class RandomTensors(Mapping[str, QTensor]):
    """Weights by our names, the same for the same seed. skew: how much longer the first experts' rows of the router
    are than the last ones', which makes some of them favourites."""

    config: ModelConfig
    skew: float = 0.0
    seed: int = 1

    def shapes(self) -> dict[str, tuple[int, int]]:
        return {name: (rows, cols) for name, rows, cols in tensor_shapes(self.config)}

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes())

    def __len__(self) -> int:
        return len(self.shapes())

    def __contains__(self, name: object) -> bool:
        return name in self.shapes()

    def __getitem__(self, name: str) -> QTensor:
        rows, cols = self.shapes()[name]
        rng = np.random.default_rng([self.seed, *name.encode()])
        if rows == 1:
            return _f32(np.ones((1, cols), np.float32))
        if name.endswith(".router"):
            lengths = np.exp(-self.skew * np.arange(rows) / rows)[:, None]
            return _f32((rng.normal(0, 1 / np.sqrt(cols), (rows, cols)) * lengths).astype(np.float32))
        blocks = np.empty(rows * cols // 32, format_of("q4_0").block)
        blocks["d"] = np.float16(2.0 / np.sqrt(cols) / 8)
        qs = np.frombuffer(rng.bytes(len(blocks) * 16), np.uint8).reshape(-1, 16)
        # Code 8 is a weight of 0; 0, which has no opposite, becomes one: else all sums would lean to one side, and all
        # tokens to the same experts.
        blocks["qs"] = np.where(qs & 15, qs & 15, 8) | np.where(qs & 240, qs & 240, 128)
        return QTensor("q4_0", rows, cols, blocks.view(np.uint8).reshape(-1))


def _f32(values: npt.NDArray[np.float32]) -> QTensor:
    return QTensor("f32", *values.shape, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


def active_bytes(tensors: RandomTensors) -> tuple[int, int]:
    """Bytes of weights that one token is multiplied with, and of all. Of the embedding one row is read."""
    experts = tensors.config.experts
    active = total = 0.0
    for name, (rows, cols) in tensors.shapes().items():
        plain = rows == 1 or name.endswith(".router")
        size = rows * row_bytes("f32" if plain else "q4_0", cols)
        total += size
        if name == "embed":
            continue
        active += size * experts.rule.top_k / experts.num_experts if experts and ".experts." in name else size
    return int(active), int(total)


def write_olmoe(tensors: RandomTensors, path: Path, *, has_vocabulary: bool = False) -> None:
    """A GGUF that llama.cpp opens; without a vocabulary for programs that feed token ids, or with one of bytes."""
    config = tensors.config
    assert config.experts is not None
    writer = gguf.GGUFWriter(path, "olmoe")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_expert_count(config.experts.num_experts)
    writer.add_expert_used_count(config.experts.rule.top_k)
    writer.add_vocab_size(config.vocab_size)
    if has_vocabulary:
        letters = [*sorted(ByteLevel.alphabet()), "th"]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list([*letters, *(f"token{i}" for i in range(len(letters), config.vocab_size))])
        writer.add_token_merges(["t h"])
        writer.add_eos_token_id(config.vocab_size - 1)
    else:
        writer.add_tokenizer_model("no_vocab")
    writer.add_quantization_version(2)
    for name, shape in tensors.shapes().items():
        if ".experts." in name and ".experts.0." not in name:
            continue
        layer = name.split(".")[1] if name.startswith("layers.") else ""
        if ".experts." in name:
            part = name.rpartition(".")[2]
            of_all = [tensors[f"layers.{layer}.experts.{e}.{part}"].data for e in range(config.experts.num_experts)]
            theirs = NAMES[f"experts.{part}"].format(layer, "").removesuffix(".")
            data = np.concatenate(of_all).reshape(len(of_all), shape[0], -1)
            writer.add_tensor(theirs, data, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
            continue
        tensor, theirs = tensors[name], NAMES[name.rpartition(".")[2]].format(layer)
        if tensor.format == "f32":
            values = tensor.data.view(np.float32)
            writer.add_tensor(theirs, values if shape[0] == 1 else values.reshape(shape))
        else:
            writer.add_tensor(theirs, tensor.data.reshape(shape[0], -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

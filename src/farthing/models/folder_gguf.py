"""A Hugging Face folder as the GGUF that says the same: metadata of our making, tensors under GGUF's names.

GGUF's llama turns neighbouring columns of q and k together, the folder those half a head apart, so their rows change
places within each head. Whether the metadata say all that the folder's config says is not believed but looked up: they
are read back, and compared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from farthing.errors import UnsupportedModel
from farthing.kernels.plan import QTensor
from farthing.models.architectures import architecture_of_gguf
from farthing.models.config import ModelConfig, config_from_gguf
from farthing.models.gguf import GGUFFile
from farthing.models.gguf_values import raw_gguf_values
from farthing.models.labels import GGUF_HEAD
from farthing.models.opening import Checkpoint
from farthing.models.rope import rope_inv_freq
from farthing.models.tokenizer_values import tokenizer_values

__all__ = ["as_gguf"]

_ROTATED = ("q", "k", "q_bias", "k_bias")
_LAST = 3  # llama.cpp's pooling type of a head that reads the last token
_WRITTEN = ("llama", "qwen2", "qwen3")  # GGUF's names of architectures; others need metadata that is not written here


def as_gguf(source: Checkpoint) -> Checkpoint:
    """The folder `source` as if it had been a GGUF. A GGUF stays as it is.

    Raises UnsupportedModel where the model or its tokenizer is of a kind that this cannot write.
    """
    if source.gguf is not None:
        return source
    name = source.config.architecture
    if name not in _WRITTEN:
        known = ", ".join(_WRITTEN)
        raise UnsupportedModel(f"{source.path}: {name} cannot be written as a GGUF; supported: {known}; give a folder")
    architecture = architecture_of_gguf(name)
    metadata = _metadata(source.config, source.path.resolve().name)
    tensors: Mapping[str, QTensor] = source.tensors
    if source.config.rope_scaling is not None and source.config.rope_scaling.kind == "llama3":
        tensors = {**tensors, "rope_factors": _rope_factors(source.config)}
    labels = source.config.labels
    roles = {**architecture.gguf_tensors, "head": GGUF_HEAD} if labels else architecture.gguf_tensors
    written = replace(source, tensors=tensors, roles=roles, norm_offset=0.0)
    names = {written.file_name(ours) for ours in tensors}
    metadata |= tokenizer_values(source.path, source.config.vocab_size, source.tokenizer().after if labels else None)
    config = config_from_gguf(architecture, metadata, names)
    _check_same(source, config)
    if config.rope_style == "interleaved":
        written = replace(written, tensors=_Interleaved(tensors, config.head_dim))
    file = GGUFFile(source.path, 3, metadata, raw_gguf_values(metadata), {}, {})
    return replace(written, config=config, gguf=file)


def _metadata(config: ModelConfig, title: str) -> dict[str, Any]:
    """Everything but the tokenizer; numbers as float32 has them."""
    prefix = f"{config.architecture}."
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(np.float32(config.rms_norm_eps)),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(np.float32(config.rope_theta)),
    }
    if config.labels:
        sizes |= {"classifier.output_labels": list(config.labels), "pooling_type": _LAST}
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        sizes |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(np.float32(scaling.factor))}
    general = {"general.architecture": config.architecture, "general.type": "model", "general.name": title}
    return {**general, **{prefix + key: value for key, value in sizes.items()}}


def _rope_factors(config: ModelConfig) -> QTensor:
    """Llama 3's scaling as the divisors [head_dim / 2] of each frequency, which is how GGUF has it."""
    factors = rope_inv_freq(replace(config, rope_scaling=None)) / rope_inv_freq(config)
    return QTensor("f32", 1, len(factors), factors.view(np.uint8))


def _check_same(source: Checkpoint, config: ModelConfig) -> None:
    """Raises UnsupportedModel where a GGUF would be another model, as far as its metadata are read."""
    before, after = (_comparable(c) for c in (source.config, config))
    lost = [name for name in before if before[name] != after[name]]
    if lost:
        said = ", ".join(f"{name} {before[name]}" for name in lost)
        raise UnsupportedModel(f"{source.path}: a GGUF cannot say of {config.architecture}: {said}; write a folder")


def _comparable(config: ModelConfig) -> dict[str, Any]:
    """Its fields, numbers as float32; without how rotation is laid out, and the scaling that becomes a tensor."""
    fields = asdict(replace(config, rope_style="half"))
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        fields["rope_scaling"] = None
    return {name: np.float32(value) if isinstance(value, float) else value for name, value in fields.items()}


class _Interleaved(Mapping[str, QTensor]):
    """`tensors` with the rows of q and k, which stand i, i + head_dim/2, as pairs side by side; made when asked for."""

    def __init__(self, tensors: Mapping[str, QTensor], head_dim: int) -> None:
        self._tensors, self._head_dim = tensors, head_dim

    def __getitem__(self, name: str) -> QTensor:
        tensor = self._tensors[name]
        if name.rpartition(".")[2] not in _ROTATED:
            return tensor
        pairs = tensor.data.reshape(-1, 2, self._head_dim // 2, self._row_bytes(tensor))
        data = np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(-1)
        return QTensor(tensor.format, tensor.rows, tensor.cols, data)

    def _row_bytes(self, tensor: QTensor) -> int:
        """Of what changes places: a row of a matrix, a number of a bias."""
        return tensor.data.nbytes // (tensor.rows if tensor.rows > 1 else tensor.cols)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

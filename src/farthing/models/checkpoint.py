"""Opens a model from disk: a GGUF file, a Hugging Face folder, or a known name in the user's cache folder.

Nothing is copied that can stay where it is: matrices are views of the mapped file until a program packs them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound
from farthing.kernels.formats import dequantize, row_bytes
from farthing.kernels.mapped import forget_mapped
from farthing.kernels.plan import Plan, Product, QTensor
from farthing.models.architectures import architecture_of_gguf, architecture_of_hf
from farthing.models.config import ModelConfig, config_from_gguf, config_from_hf
from farthing.models.decoder import build_plan, tensor_shapes
from farthing.models.fields import Fields
from farthing.models.gguf import read_gguf
from farthing.models.gguf_experts import with_single_experts
from farthing.models.hub import find_model
from farthing.models.safetensors import read_safetensors
from farthing.models.template import encode_chat
from farthing.models.tokenizer import Tokenizer, load_tokenizer_gguf, load_tokenizer_json
from farthing.quant import quantizable, requantize, target_format
from farthing.request import Message

__all__ = ["Model", "load_model"]

# How much of the weights stands for them; see Tensors.digest.
_WHOLE_BYTES, _SAMPLE_EVERY, _SAMPLE_BYTES = 256 << 20, 1 << 20, 4 << 10


@dataclass(frozen=True)
class Model:
    """A model that is ready to become a program. `tensors` are named as in `decoder.py`."""

    name: str
    path: Path
    config: ModelConfig
    tokenizer: Tokenizer = field(repr=False)
    tensors: "Tensors" = field(repr=False)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Every token id that ends an answer."""
        return self.tokenizer.eos_ids

    @property
    def num_parameters(self) -> int:
        return sum(rows * cols for _, rows, cols in tensor_shapes(self.config))

    @property
    def num_active_parameters(self) -> int:
        """Of them, those that one token is multiplied with."""
        experts = self.config.experts
        if experts is None:
            return self.num_parameters
        one_expert = 3 * experts.intermediate_size * self.config.hidden_size
        num_idle = self.config.num_sparse_layers * (experts.num_experts - experts.rule.top_k)
        return self.num_parameters - num_idle * one_expert

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the formats they run in."""
        return self.tensors.num_bytes()

    @property
    def active_weight_bytes(self) -> int:
        """Of them, those that computing one token alone reads: of experts the mean of those it takes, of an embedding
        that is not the head as well a single row."""
        in_experts, experts = self.tensors.num_bytes(lambda name: ".experts." in name), self.config.experts
        num_bytes = self.weight_bytes - in_experts
        if not self.config.is_tied_head:
            whole = self.tensors.num_bytes(lambda name: name == "embed")
            num_bytes -= whole - whole // self.config.vocab_size
        return num_bytes + (in_experts * experts.rule.top_k // experts.num_experts if experts else 0)

    def identity(self) -> str:
        """Names what this model computes: a digest of its config, its weights, and the formats they run in."""
        return hashlib.blake2b(repr(self.config).encode() + self.tensors.digest(), digest_size=16).hexdigest()

    def plan(self, product: Product = "f32") -> Plan:
        """The operations that compute this model; see `kernels.plan.Linear` for what product means."""
        return build_plan(self.config, self.tensors, product)

    def encode_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation in the model's chat template, ready for the model's answer (or for more)."""
        return encode_chat(self.tokenizer, messages, add_generation_prompt=add_generation_prompt)


class Tensors(Mapping[str, QTensor]):
    """A checkpoint's tensors under our names, in the formats they run in.

    A matrix that is to be re-blocked is converted each time it is asked for and not kept: a program packs it once, and
    then two copies of the weights would lie in memory.
    """

    def __init__(self, tensors: Mapping[str, QTensor], format: str | None = None) -> None:
        self._tensors = tensors
        self._format = format

    def __getitem__(self, name: str) -> QTensor:
        tensor = self._tensors[name]
        result = requantize(tensor, self.format_of(name))
        if result is not tensor:
            forget_mapped(tensor.data)
        return result

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors  # the mixin's would convert the tensor

    def format_of(self, name: str) -> str:
        """The format that the tensor has when it is asked for."""
        tensor = self._tensors[name]
        if self._format is None or name.endswith(".router"):  # a thousandth of the bytes; decides which others are read
            return tensor.format
        return target_format(tensor, self._format)

    def digest(self) -> bytes:
        """32 bytes that stand for all weights and the formats they run in, from the file's bytes.

        Up to 256 MiB every byte counts (0.1 s for 100 MB); of more, 4 KiB of each MiB of a tensor and its end: another
        training run changes all of them, but an edit by hand between them would not be seen.
        """
        is_whole = sum(tensor.data.nbytes for tensor in self._tensors.values()) <= _WHOLE_BYTES
        digest = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self._tensors.items()):
            digest.update(repr((name, tensor.format, self.format_of(name), tensor.rows, tensor.cols)).encode())
            data, size = tensor.data, tensor.data.nbytes
            starts = [*range(0, size, _SAMPLE_EVERY), max(0, size - _SAMPLE_BYTES)]
            for part in [data] if is_whole else [data[start : start + _SAMPLE_BYTES] for start in starts]:
                digest.update(part.data)
            forget_mapped(data)
        return digest.digest()

    def num_bytes(self, is_counted: Callable[[str], bool] = lambda _: True) -> int:
        """Bytes of all tensors, or of those whose names are counted, in these formats, without converting any."""
        tensors = ((name, tensor) for name, tensor in self._tensors.items() if is_counted(name))
        return sum(tensor.rows * row_bytes(self.format_of(name), tensor.cols) for name, tensor in tensors)


def load_model(path_or_name: str | Path, *, weights: str | None = None) -> Model:
    """Open a .gguf file, a folder with config.json, or a name that `farthing pull` has put in the cache folder.

    weights: re-block every matrix to this format (one of `quant.quantizable()`); None keeps the file's formats.
    Raises ModelNotFound, UnsupportedModel, CorruptModel, and InvalidRequest for an unknown `weights`.
    """
    if weights is not None and weights not in quantizable():
        raise InvalidRequest(f"weights is {weights!r}; allowed: {', '.join(quantizable())}, or none to keep the file's")
    path = find_model(path_or_name)
    is_path = Path(path_or_name).expanduser().exists()
    name = str(path_or_name) if not is_path else path.stem if path.is_file() else path.resolve().name
    config, tensors, tokenizer = _open_folder(path) if path.is_dir() else _open_gguf(path)
    return Model(name, path, config, tokenizer, Tensors(tensors, weights))


def _open_gguf(path: Path) -> tuple[ModelConfig, dict[str, QTensor], Tokenizer]:
    file = read_gguf(path)
    fields = Fields(file.metadata, str(path))
    name = fields.text("general.architecture")
    num_experts = fields.integer(f"{name}.expert_count", 0)
    architecture = architecture_of_gguf(name, is_sparse=num_experts != 0)
    config = config_from_gguf(architecture, file.metadata, file.tensors)
    theirs = with_single_experts(file, num_experts) if config.experts else file.tensors
    tensors = _collect(path, config, theirs, architecture.gguf_tensors)
    return config, tensors, load_tokenizer_gguf(file.metadata)


def _open_folder(path: Path) -> tuple[ModelConfig, dict[str, QTensor], Tokenizer]:
    raw = _read_json(path / "config.json")
    architecture = architecture_of_hf(Fields(raw, f"{path}: config.json").text("model_type"))
    config = config_from_hf(architecture, raw)
    tensors = _collect(path, config, read_safetensors(path), architecture.hf_tensors, architecture.hf_norm_offset)
    return config, tensors, load_tokenizer_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelNotFound(f"{path}: cannot be read ({error.strerror}); a model's folder needs it") from error
    except (ValueError, RecursionError) as error:
        raise CorruptModel(f"{path} is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise CorruptModel(f"{path} is not a JSON object")
    return raw


def _collect(
    path: Path, config: ModelConfig, theirs: Mapping[str, QTensor], names: Mapping[str, str], norm_offset: float = 0.0
) -> dict[str, QTensor]:
    """The tensors that `config` needs, by our names; vectors as float32 of their own. Raises CorruptModel."""
    tensors: dict[str, QTensor] = {}
    for name, rows, cols in tensor_shapes(config):
        tensors[name] = _checked(path, theirs, _name_in_file(name, names), rows, cols)
        if norm_offset and name.endswith("norm"):
            tensors[name].data.view(np.float32)[:] += np.float32(norm_offset)
    if names.get("rope_factors") in theirs:
        factors = _checked(path, theirs, names["rope_factors"], 1, config.head_dim // 2)
        if not (factors.data.view(np.float32) > 0).all():
            raise CorruptModel(f"{path}: tensor {names['rope_factors']!r} holds numbers that are not above 0")
        tensors["rope_factors"] = factors
    return tensors


def _name_in_file(name: str, names: Mapping[str, str]) -> str:
    """`layers.3.q` -> `blk.3.attn_q.weight`, `layers.3.experts.5.up` -> `blk.3.ffn_up_exps.weight.5`"""
    numbers = [part for part in name.split(".") if part.isdigit()]
    role = ".".join(part for part in name.split(".") if not part.isdigit()).removeprefix("layers.")
    return names[role].format(*numbers)


def _checked(path: Path, theirs: Mapping[str, QTensor], name: str, rows: int, cols: int) -> QTensor:
    tensor = theirs.get(name)
    if tensor is None:
        raise CorruptModel(f"{path}: tensor {name!r} [{rows}, {cols}] is missing")
    if (tensor.rows, tensor.cols) != (rows, cols):
        found = f"[{tensor.rows}, {tensor.cols}]"
        raise CorruptModel(f"{path}: tensor {name!r} is {found}; its model's sizes say [{rows}, {cols}]")
    if rows > 1:
        return tensor
    values = dequantize(tensor.data, tensor.format, 1, cols)
    if not np.isfinite(values).all():
        raise CorruptModel(f"{path}: tensor {name!r} holds values that are not finite numbers")
    return QTensor("f32", 1, cols, values.reshape(-1).view(np.uint8))

"""What lies in a model's file or folder: its config, and its tensors under our names and under the file's.

Three forms: a GGUF file; a Hugging Face folder; a .safetensors file with a GGUF's metadata, as `farthing quantize`
writes it where a format is none of ggml's.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from farthing.errors import CorruptModel, ModelNotFound, UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import QTensor
from farthing.models.architectures import architecture_of_gguf, architecture_of_hf
from farthing.models.block_tensors import section_of_metadata
from farthing.models.config import ModelConfig, config_from_gguf, config_from_hf
from farthing.models.decoder import tensor_shapes
from farthing.models.fields import Fields
from farthing.models.gguf import GGUFFile, read_gguf, read_gguf_values
from farthing.models.gguf_experts import with_single_experts
from farthing.models.hub import is_cascade
from farthing.models.labels import GGUF_HEAD, HF_HEAD
from farthing.models.safetensors import read_safetensors, read_safetensors_file
from farthing.models.tokenizer import Tokenizer, load_tokenizer_gguf, load_tokenizer_json

__all__ = ["Checkpoint", "open_checkpoint", "read_json"]


@dataclass(frozen=True)
class Checkpoint:
    """An opened model. `gguf` is what a GGUF says of itself (of a .safetensors that carries it, with its tensors one
    by one); None of a Hugging Face folder."""

    path: Path
    config: ModelConfig
    tensors: Mapping[str, QTensor] = field(repr=False)  # by our names; vectors as float32
    roles: Mapping[str, str] = field(repr=False)  # of its architecture, see config.Architecture
    tokenizer: Callable[[], Tokenizer] = field(repr=False)
    gguf: GGUFFile | None = field(repr=False)
    norm_offset: float = 0.0  # that has been added to what the file holds of each norm

    def file_name(self, name: str) -> str:
        """What the file calls, or would call, our tensor `name`: of experts as `with_single_experts` names them."""
        return _name_in_file(name, self.roles)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open what `hub.find_model` found. Raises ModelNotFound, UnsupportedModel, CorruptModel."""
    if is_cascade(path):
        what = "holds a cascade: farthing classify and compare and an upstream of kind classifier take it"
        raise UnsupportedModel(f"{path} {what}; elsewhere give one of its models")
    if path.is_dir():
        return _open_folder(path)
    return _open_gguf(_read_safetensors_gguf(path) if path.suffix == ".safetensors" else read_gguf(path))


def _read_safetensors_gguf(path: Path) -> GGUFFile:
    file = read_safetensors_file(path)
    section = section_of_metadata(path, file.metadata)
    if section is None:
        raise ModelNotFound(f"{path} holds weights alone; give the folder in which it lies with its config.json")
    metadata, raw_values = read_gguf_values(path, section)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, t in file.tensors.items():
        shapes[name] = (t.rows, t.cols) if t.rows > 1 else (t.cols,)
    return GGUFFile(path, 3, metadata, raw_values, file.tensors, shapes)


def _open_gguf(file: GGUFFile) -> Checkpoint:
    path = file.path
    fields = Fields(file.metadata, str(path))
    name = fields.text("general.architecture")
    num_experts = fields.integer(f"{name}.expert_count", 0)
    architecture = architecture_of_gguf(name, is_sparse=num_experts != 0)
    config = config_from_gguf(architecture, file.metadata, file.tensors)
    theirs = with_single_experts(file, num_experts) if config.experts else file.tensors
    roles = _roles(architecture.gguf_tensors, config, GGUF_HEAD)
    tensors = _collect(path, config, theirs, roles)
    return Checkpoint(path, config, tensors, roles, lambda: load_tokenizer_gguf(file.metadata), file)


def _open_folder(path: Path) -> Checkpoint:
    raw = read_json(path / "config.json")
    architecture = architecture_of_hf(Fields(raw, f"{path}: config.json").text("model_type"))
    config = config_from_hf(architecture, raw)
    roles, offset = _roles(architecture.hf_tensors, config, HF_HEAD), architecture.hf_norm_offset
    tensors = _collect(path, config, read_safetensors(path), roles, offset)
    unread_id = raw.get("pad_token_id") if config.labels else None
    return Checkpoint(path, config, tensors, roles, lambda: load_tokenizer_json(path, unread_id), None, offset)


def _roles(roles: Mapping[str, str], config: ModelConfig, classifier_head: str) -> Mapping[str, str]:
    return {**roles, "head": classifier_head} if config.labels else roles


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model's folder. Raises ModelNotFound, CorruptModel."""
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

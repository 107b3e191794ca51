"""The experts of a GGUF one by one: llama.cpp stores those of a layer in one tensor [E, rows, cols]."""

import re
from collections.abc import Mapping

from farthing.errors import CorruptModel
from farthing.kernels.plan import QTensor
from farthing.models.gguf import GGUFFile

__all__ = ["part_names", "with_single_experts"]

_FUSED = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
_SINGLE = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d+)\.weight")  # Mixtral's, in files of before April 2024


def with_single_experts(file: GGUFFile, num_experts: int) -> Mapping[str, QTensor]:
    """The file's tensors, those of experts as views, named `blk.0.ffn_gate_exps.weight.5`. Raises CorruptModel where a
    tensor does not hold num_experts matrices."""
    tensors: dict[str, QTensor] = {}
    for name, tensor in file.tensors.items():
        if _SINGLE.fullmatch(name):
            tensors[part_names(name, 1)[0]] = tensor
        elif _FUSED.fullmatch(name):
            shape = file.shapes[name]
            if len(shape) != 3 or shape[0] != num_experts:
                allowed = f"[{num_experts}, rows, columns], for its metadata says {num_experts} experts"
                raise CorruptModel(f"{file.path}: tensor {name!r} is {list(shape)}; allowed: {allowed}")
            parts = tensor.data.reshape(num_experts, -1)  # [E, bytes]
            for part, data in zip(part_names(name, num_experts), parts, strict=True):
                tensors[part] = QTensor(tensor.format, shape[1], shape[2], data)
        else:
            tensors[name] = tensor
    return tensors


def part_names(name: str, num_experts: int) -> tuple[str, ...]:
    """What a file's tensor is called by `with_single_experts`: one name, or one for each expert that it holds."""
    if match := _SINGLE.fullmatch(name):
        return (f"{match[1]}_exps.weight.{match[2]}",)
    if _FUSED.fullmatch(name):
        return tuple(f"{name}.{expert}" for expert in range(num_experts))
    return (name,)

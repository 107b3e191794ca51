"""The student before it learns: some of the teacher's layers, and the part of its vocabulary that the task needs."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from farthing.distill.layers import choose_layers
from farthing.errors import CorruptModel, InvalidRequest, UnsupportedModel
from farthing.kernels.plan import QTensor
from farthing.models import load_model
from farthing.models.new_folder import new_folder, write_tensors
from farthing.models.opening import read_json
from farthing.models.safetensors import read_safetensors
from farthing.models.vocabulary_trim import read_tokenizer, task_token_ids, trim_tokenizer

__all__ = ["StudentSpec", "choose_layers", "make_student", "parse_student"]

_LAYER = re.compile(r"(.*\blayers\.)(\d+)(\..*)")
_VOCABULARY = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
_COPIED = ("chat_template.jinja", "special_tokens_map.json", "LICENSE", "README.md")
_HOW = "write layers=6,vocab=task: a number of layers (or which, as 0+1+14+29), and task, all or a number of tokens"


@dataclass(frozen=True)
class StudentSpec:
    """How small the student is. layers: how many, chosen by their importance, or which; vocab: the task's tokens alone,
    so many, or all."""

    layers: int | tuple[int, ...]
    vocab: Literal["task", "all"] | int = "task"

    def __post_init__(self) -> None:
        if isinstance(self.layers, int):
            is_good = self.layers >= 1
        else:
            is_good = bool(self.layers) and list(self.layers) == sorted({*self.layers}) and self.layers[0] >= 0
        if not is_good:
            raise InvalidRequest(f"student: layers is {self.layers}; allowed: 1 or more, or ascending numbers from 0")
        if isinstance(self.vocab, int) and self.vocab < 1:
            raise InvalidRequest(f"student: vocab is {self.vocab}; allowed: task, all, or 1 or more")


def parse_student(text: str) -> StudentSpec:
    """`layers=6,vocab=task`. Raises InvalidRequest."""
    given: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or key not in ("layers", "vocab") or key in given:
            raise InvalidRequest(f"--student {text!r}: {part.strip()!r} is not understood; {_HOW}")
        given[key] = value
    if "layers" not in given:
        raise InvalidRequest(f"--student {text!r} does not say how many layers; {_HOW}")
    vocab = given.get("vocab", "task")
    try:
        numbers = [int(number) for number in given["layers"].split("+")]
        size: Any = vocab if vocab in ("task", "all") else int(vocab)
    except ValueError:
        raise InvalidRequest(f"--student {text!r} is not understood; {_HOW}") from None
    return StudentSpec(numbers[0] if len(numbers) == 1 else tuple(numbers), size)


def make_student(
    teacher_folder: Path, out: Path, layers: Sequence[int], kept_token_ids: Sequence[int] | None = None
) -> None:
    """A Hugging Face folder with some of the teacher's layers and tokens (None: all), in the same number format.

    Raises ModelNotFound, CorruptModel, UnsupportedModel for a teacher's folder that cannot be read, InvalidRequest for
    layers or tokens that it has not, or an `out` that exists.
    """
    teacher = load_model(teacher_folder)  # says what is wrong with a damaged folder
    if not teacher_folder.is_dir():
        raise InvalidRequest(f"{teacher_folder} is no folder with config.json; make one of it first")
    total = teacher.config.num_layers
    if not layers or list(layers) != sorted({*layers}) or not 0 <= layers[0] <= layers[-1] < total:
        raise InvalidRequest(
            f"student: layers {list(layers)}; the teacher has 0 to {total - 1}: ascending ones of these"
        )
    config = _config(read_json(teacher_folder / "config.json"), layers, total)
    documents = {"config.json": config}
    for name in ("generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        if (teacher_folder / name).is_file():
            documents[name] = read_json(teacher_folder / name)
    if kept_token_ids is not None:
        kept = _with_declared(documents, teacher_folder, kept_token_ids, teacher.config.vocab_size)
        documents = _renumbered(documents, kept)
        kept_token_ids = kept
    tensors = _student_tensors(read_safetensors(teacher_folder), layers, kept_token_ids)
    with new_folder(out) as folder:
        for name, document in documents.items():
            text = json.dumps(document, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
            (folder / name).write_text(text + "\n", encoding="utf-8")
        for name in _COPIED:
            if (teacher_folder / name).is_file():
                shutil.copyfile(teacher_folder / name, folder / name)
        write_tensors(folder / "model.safetensors", tensors)


def _config(config: dict[str, Any], layers: Sequence[int], total: int) -> dict[str, Any]:
    """config.json with these layers. Raises UnsupportedModel where a layer's kind hangs on its number."""
    kinds = config.get("layer_types")
    by_number = ("mlp_only_layers", "no_rope_layers")
    if any(config.get(key) for key in by_number) or config.get("decoder_sparse_step", 1) != 1:
        raise UnsupportedModel(
            "the teacher's layers differ by their number; a student of some of them is not supported"
        )
    if kinds is None and (config.get("use_sliding_window") or config.get("sliding_window_pattern")):
        raise UnsupportedModel(
            "config.json does not say which layers see a window (layer_types); write the folder anew"
        )
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != total:
            raise CorruptModel(f"config.json: layer_types must name the kind of each of {total} layers")
        config = config | {"layer_types": [kinds[layer] for layer in layers]}
    return config | {"num_hidden_layers": len(layers)}


def _with_declared(
    documents: Mapping[str, dict[str, Any]], folder: Path, kept: Sequence[int], vocab_size: int
) -> tuple[int, ...]:
    """`kept`, and what the folder's files name: ends of sequence and the like. Raises InvalidRequest."""
    declared: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        for key, value in documents.get(name, {}).items():
            if key.endswith("_token_id"):
                declared |= {id for id in (value if isinstance(value, list) else [value]) if isinstance(id, int)}
    ids = task_token_ids(read_tokenizer(folder), {*kept, *(id for id in declared if 0 <= id < vocab_size)})
    if ids[-1] >= vocab_size:
        raise CorruptModel(f"{folder}: tokenizer.json has the id {ids[-1]}, the embedding only {vocab_size} rows")
    return ids


def _renumbered(documents: Mapping[str, dict[str, Any]], kept: Sequence[int]) -> dict[str, dict[str, Any]]:
    new_ids = {old: new for new, old in enumerate(kept)}

    def renumber(value: Any) -> Any:
        return [new_ids.get(id) for id in value] if isinstance(value, list) else new_ids.get(value)

    result: dict[str, dict[str, Any]] = {}
    for name, document in documents.items():
        if name == "tokenizer.json":
            result[name] = trim_tokenizer(document, kept)
        elif name == "tokenizer_config.json":
            added = document.get("added_tokens_decoder", {})
            renamed = {str(new_ids[int(id)]): token for id, token in added.items() if int(id) in new_ids}
            result[name] = document | ({"added_tokens_decoder": renamed} if renamed else {})
        else:
            ids = {key: renumber(value) for key, value in document.items() if key.endswith("_token_id")}
            result[name] = document | ids
    result["config.json"] = result["config.json"] | {"vocab_size": len(kept)}
    return result


def _student_tensors(
    theirs: Mapping[str, QTensor], layers: Sequence[int], kept: Sequence[int] | None
) -> dict[str, QTensor]:
    """By the file's names, layers renumbered, rows of the vocabulary picked."""
    new_numbers = {old: new for new, old in enumerate(layers)}
    tensors: dict[str, QTensor] = {}
    for name, tensor in theirs.items():
        found = _LAYER.fullmatch(name)
        if found is not None:
            if int(found[2]) in new_numbers:
                tensors[f"{found[1]}{new_numbers[int(found[2])]}{found[3]}"] = tensor
        elif kept is not None and name.endswith(_VOCABULARY):
            rows = tensor.data.reshape(tensor.rows, -1)[np.asarray(kept)]
            tensors[name] = QTensor(tensor.format, len(kept), tensor.cols, np.ascontiguousarray(rows).reshape(-1))
        else:
            tensors[name] = tensor
    return tensors

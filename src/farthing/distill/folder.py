"""Any opened model of the llama architecture as a Hugging Face folder: what torch reads, and what a student is made of.

A folder is copied with its own files; of a GGUF the config and the tokenizer are written anew. With labels it becomes a
classifier: `score.weight` in place of the head, and a tokenizer that puts the end token after a text, since the last
token's hidden state is what is classified.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest, UnsupportedModel
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import QTensor
from farthing.models import Model
from farthing.models.llama import HF_TENSORS
from farthing.models.new_folder import new_folder, write_tensors
from farthing.models.opening import open_checkpoint, read_json
from farthing.models.vocabulary import Vocabulary, hidden
from farthing.models.vocabulary_gguf import vocabulary_from_gguf

__all__ = ["FolderDtype", "to_float", "write_folder"]

FolderDtype = Literal["float32", "bfloat16"]

_HEAD_STD = 0.02  # of a new classification head
_COPIED = ("generation_config.json", "chat_template.jinja", "special_tokens_map.json", "LICENSE", "README.md")
_CLASS = "SequenceClassification"


def write_folder(
    model: Model,
    folder: Path,
    *,
    dtype: FolderDtype = "bfloat16",
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> None:
    """Write `folder`, which must not exist. labels: a classifier, its head small random numbers from the seed.

    Raises InvalidRequest (exists, labels that cannot be), UnsupportedModel for what is not of the llama architecture.
    """
    if model.config.architecture != "llama" or model.config.experts is not None:
        raise UnsupportedModel(f"{model.name}: {model.config.architecture} cannot be trained; supported: llama, dense")
    if dtype not in get_args(FolderDtype):
        raise InvalidRequest(f"dtype is {dtype!r}; allowed: {', '.join(get_args(FolderDtype))}")
    if labels is not None and (len(labels) < 2 or len({*labels}) < len(labels) or not all(labels)):
        raise InvalidRequest(f"{len(labels)} labels; a classifier needs two or more, each another text")
    documents = _documents(model, labels)
    documents["config.json"]["dtype"] = dtype
    with new_folder(folder) as part:
        for name, document in documents.items():
            text = json.dumps(document, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
            (part / name).write_text(text + "\n", encoding="utf-8")
        if model.path.is_dir():
            for name in _COPIED:
                if (model.path / name).is_file():
                    shutil.copyfile(model.path / name, part / name)
        elif model.tokenizer.chat_template is not None:
            (part / "chat_template.jinja").write_text(model.tokenizer.chat_template, encoding="utf-8")
        num_labels = None if labels is None else len(labels)
        write_tensors(part / "model.safetensors", dict(_tensors(model, dtype, num_labels, seed)))


def to_float(values: NDArray[np.float32], dtype: FolderDtype) -> QTensor:
    """[rows, cols] (a vector: one dimension) as float32 or rounded to bfloat16, half to even."""
    rows, cols = values.shape if values.ndim == 2 else (1, len(values))
    values = np.ascontiguousarray(values, np.float32)
    if dtype == "float32":
        return QTensor("f32", rows, cols, values.reshape(-1).view(np.uint8))
    bits = values.reshape(-1).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return QTensor("bf16", rows, cols, rounded.astype(np.uint16).view(np.uint8))


def _tensors(model: Model, dtype: FolderDtype, num_labels: int | None, seed: int) -> Iterator[tuple[str, QTensor]]:
    """By the names that transformers knows them under."""
    config = model.config
    if "rope_factors" in model.tensors:
        raise UnsupportedModel(f"{model.name}: a GGUF with rope_freqs cannot be trained; take the model's folder")
    for ours in model.tensors:
        if ours == "head" and (num_labels is not None or config.labels):
            continue
        tensor = model.tensors[ours]
        values = dequantize(tensor.data, tensor.format, tensor.rows, tensor.cols)
        role = ours.split(".")[-1]
        if config.rope_style == "interleaved" and role in ("q", "k", "q_bias", "k_bias"):
            values = _half(values, config.head_dim)
        number, _, role = ours.removeprefix("layers.").rpartition(".")
        yield HF_TENSORS[role].format(number), to_float(values if tensor.rows > 1 else values[0], dtype)
    if num_labels is not None:
        drawn = np.random.default_rng(seed).standard_normal((num_labels, config.hidden_size), np.float32)
        yield "score.weight", to_float(drawn * np.float32(_HEAD_STD), dtype)
    elif config.labels:
        head = model.tensors["head"]
        yield "score.weight", to_float(dequantize(head.data, head.format, head.rows, head.cols), dtype)


def _half(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows (of a bias: columns) of each head from GGUF's order (0, half, 1, half + 1, ...) to Hugging Face's."""
    by_row = values if len(values) > 1 else values.reshape(-1, 1)
    return by_row.reshape(-1, head_dim // 2, 2, by_row.shape[1]).swapaxes(1, 2).reshape(values.shape)


def _documents(model: Model, labels: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    """config.json, tokenizer.json and tokenizer_config.json."""
    before, after = _around(model)
    if model.path.is_dir():
        config = read_json(model.path / "config.json")
        tokenizer = read_json(model.path / "tokenizer.json")
        has_settings = (model.path / "tokenizer_config.json").is_file()
        settings = read_json(model.path / "tokenizer_config.json") if has_settings else {}
    else:
        gguf = open_checkpoint(model.path).gguf
        assert gguf is not None
        config, tokenizer = _config(model), _tokenizer(vocabulary_from_gguf(gguf.metadata))
        names = {"bos_token": model.tokenizer.bos_token, "eos_token": model.tokenizer.eos_token}
        settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {key: name for key, name in names.items() if name}
        tokenizer["post_processor"] = _template(model, before, after)
        labels = labels or model.config.labels or None
    config.pop("torch_dtype", None)
    if labels is not None:
        end_id = model.tokenizer.token_id(model.tokenizer.eos_token)
        if end_id is None:
            raise UnsupportedModel(f"{model.name}: its tokenizer has no end token, which a classifier reads last")
        config |= {
            "architectures": ["LlamaForSequenceClassification"],
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
            # What transformers passes over from the right; so not the end token, whose hidden state is classified.
            "pad_token_id": next((id for id in model.tokenizer.control_tokens.values() if id != end_id), None),
        }
        tokenizer["post_processor"] = _template(model, before, [end_id])
    return {"config.json": config, "tokenizer.json": tokenizer, "tokenizer_config.json": settings}


def _around(model: Model) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before a text and after it."""
    ids, bos_id = model.tokenizer.encode_alone([""])[0], model.tokenizer.bos_id
    size = 1 if ids and ids[0] == bos_id else 0
    return ids[:size], ids[size:]


def _template(model: Model, before: Sequence[int], after: Sequence[int]) -> dict[str, Any]:
    """A post-processor of tokenizer.json that puts these ids around a text."""
    texts = {id: model.tokenizer.token_text(id) or "" for id in (*before, *after)}

    def row(kind: str, number: int) -> list[dict[str, Any]]:
        tokens = [[{"SpecialToken": {"id": texts[id], "type_id": number}} for id in ids] for ids in (before, after)]
        return [*tokens[0], {"Sequence": {"id": kind, "type_id": number}}, *tokens[1]]

    special = {text: {"id": text, "ids": [id], "tokens": [text]} for id, text in texts.items()}
    return {
        "type": "TemplateProcessing",
        "single": row("A", 0),
        "pair": [*row("A", 0), *row("B", 1)],
        "special_tokens": special,
    }


def _config(model: Model) -> dict[str, Any]:
    """config.json of a llama that was opened from a GGUF."""
    c, scaling = model.config, model.config.rope_scaling
    if c.has_qkv_bias != c.has_o_bias:
        raise UnsupportedModel(f"{model.name}: biases of q, k and v without one of o cannot be trained")
    rope: dict[str, Any] = {"rope_theta": c.rope_theta, "rope_type": "default"}
    if scaling is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": c.has_qkv_bias,
        "bos_token_id": model.tokenizer.bos_id,
        "eos_token_id": model.tokenizer.token_id(model.tokenizer.eos_token),
        "head_dim": c.head_dim,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "initializer_range": _HEAD_STD,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings,
        "mlp_bias": c.has_mlp_bias,
        "model_type": "llama",
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": c.is_tied_head,
        "vocab_size": c.vocab_size,
    }


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.json of a GGUF's vocabulary: that of our backend, its control tokens under their own names again."""
    document: dict[str, Any] = json.loads(vocabulary.backend.to_str())
    names = {hidden(token.text): token.text for token in vocabulary.control}
    model = document["model"]
    model["vocab"] = {names.get(piece, piece): id for piece, id in model["vocab"].items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [token for token in document["added_tokens"] if token["content"] != vocabulary.anchor]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = [{"id": token.id, "content": token.text} | flags for token in vocabulary.control]
    document["added_tokens"] = sorted([*added, *control], key=lambda token: token["id"])
    return document

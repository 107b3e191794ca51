"""A folder's tokenizer as a GGUF's metadata: byte-level BPE, the only kind whose rules GGUF names.

GGUF has the name of the rule that cuts text into words, not the rule (vocabulary_gguf.PATTERNS). The rule's patterns in
tokenizer.json say which name it is; then some text is encoded both ways, and where the ids differ nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from farthing.errors import UnsupportedModel
from farthing.models.tokenizer import Tokenizer
from farthing.models.vocabulary import Vocabulary, end_ids
from farthing.models.vocabulary_gguf import (
    CONTROL,
    GPT2_PATTERN,
    IGNORES_MERGES,
    NFC,
    PATTERNS,
    UNUSED,
    USER_DEFINED,
    vocabulary_from_gguf,
)
from farthing.models.vocabulary_json import flat_steps, merge_pair, read_object, vocabulary_from_folder

__all__ = ["tokenizer_values"]

_NORMAL = 1
_PROBE = (
    "The  quick brown fox's 12,345 jumps: don't\tWE'LL go\r\n\n  x=3.14**2;\n\nÜber naïve cafés 東京タワー 안녕 "
    "мир ١٢٣ ² ½ 🦙🏽 e\u0301 \u00a0end   \n "
)


def tokenizer_values(folder: Path, vocab_size: int, after: tuple[int, ...] | None = None) -> dict[str, Any]:
    """Keys of `tokenizer.` for a model with vocab_size ids; after: what a classifier's tokenizer puts behind a text;
    None for a model that continues text.

    Raises UnsupportedModel for a tokenizer that GGUF cannot describe, CorruptModel, ModelNotFound.
    """
    vocabulary = vocabulary_from_folder(folder)
    if after is not None:  # what a classifier reads has before it what encode_alone puts there, add_bos or not
        vocabulary = replace(vocabulary, add_bos=bool(vocabulary.before), after=after)
    path = folder / "tokenizer.json"
    document = read_object(path)
    if len(vocabulary.pieces) > vocab_size:
        raise UnsupportedModel(f"{path} has {len(vocabulary.pieces)} ids, its model {vocab_size}; it cannot be a GGUF")
    added = [token for token in document["added_tokens"] if not token["special"]]
    for token in document["added_tokens"]:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise UnsupportedModel(
                f"{path}: {token['content']!r} takes white space or whole words, which a GGUF cannot say"
            )
    types = [_NORMAL if piece else UNUSED for piece in vocabulary.pieces] + [UNUSED] * vocab_size
    for token in vocabulary.control:
        types[token.id] = CONTROL
    for token in added:
        types[token["id"]] = USER_DEFINED
    pieces = [*vocabulary.pieces, *[None] * vocab_size][:vocab_size]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre(path, document),
        "tokenizer.ggml.tokens": [piece or f"[PAD{id}]" for id, piece in enumerate(pieces)],
        "tokenizer.ggml.token_type": types[:vocab_size],
        "tokenizer.ggml.merges": [" ".join(merge_pair(merge)[:2]) for merge in document["model"]["merges"]],
        **_special(path, document, vocabulary, after or (), read_object(folder / "tokenizer_config.json")),
    }
    if vocabulary.chat_template is not None:
        values["tokenizer.chat_template"] = vocabulary.chat_template
    _check(path, values, vocabulary, is_alone=after is not None)
    return values


def _special(
    path: Path, document: Mapping[str, Any], vocabulary: Vocabulary, after: Sequence[int], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Ids that have a meaning, as far as the folder says; and what goes before and after a text."""
    ends = [id for id in (*after, vocabulary.eos_id, *sorted(vocabulary.end_ids)) if id is not None]
    if len(after) > 1 or not vocabulary.end_ids.issuperset(after) or len(vocabulary.before) > 1:
        raise UnsupportedModel(f"{path}: a GGUF knows one token before a text, and one after it that ends an answer")
    eos = ends[0] if ends else None
    unnamed = [id for id in dict.fromkeys(ends[1:]) if id not in end_ids(vocabulary.control, [eos])]
    if len(unnamed) > 2:
        raise UnsupportedModel(f"{path}: {len(unnamed) + 1} tokens end an answer; a GGUF has room for three")
    eot, eom = [*unnamed, None, None][:2]
    ids = {token.text: token.id for token in vocabulary.control}
    pad = config.get("pad_token")
    found = {
        "bos": vocabulary.bos_id,
        "eos": eos,
        "eot": eot,
        "eom": eom,
        "unknown": ids.get(document["model"].get("unk_token") or ""),
        "padding": ids.get(pad["content"] if isinstance(pad, Mapping) else pad or ""),
    }
    byte_level = next(step for step in flat_steps(document["pre_tokenizer"]) if step["type"] == "ByteLevel")
    return {
        **{f"tokenizer.ggml.{name}_token_id": id for name, id in found.items() if id is not None},
        "tokenizer.ggml.add_bos_token": vocabulary.add_bos,
        "tokenizer.ggml.add_eos_token": bool(after),
        "tokenizer.ggml.add_space_prefix": bool(byte_level.get("add_prefix_space", True)),
    }


def _pre(path: Path, document: Mapping[str, Any]) -> str:
    """The name of the rule that cuts text. Raises UnsupportedModel where it has none, naming what is in the way."""
    model = document["model"]
    odd = [key for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model.get(key)]
    steps = flat_steps(document.get("pre_tokenizer"))
    if model.get("type", "BPE") != "BPE" or odd or not steps or steps[-1]["type"] != "ByteLevel":
        raise UnsupportedModel(f"{path}: only byte-level BPE can be written as a GGUF; write a folder instead")
    patterns = tuple(_pattern(path, step) for step in steps)
    cuts = tuple(pattern for pattern in patterns if pattern)
    normalizers = [step["type"] for step in flat_steps(document.get("normalizer"))]
    for name, known in PATTERNS.items():
        is_same = known == cuts and (normalizers == ["NFC"]) == (name in NFC)
        if is_same and bool(model.get("ignore_merges")) == (name in IGNORES_MERGES) and normalizers in ([], ["NFC"]):
            return name
    raise UnsupportedModel(
        f"{path} cuts text by a rule that is none of {', '.join(PATTERNS)}, which a GGUF can name; write a folder"
    )


def _pattern(path: Path, step: Mapping[str, Any]) -> str:
    """The regular expression by which a step cuts; nothing where it does not cut."""
    match step:
        case {"type": "Digits", "individual_digits": True}:
            return r"\p{N}"
        case {"type": "ByteLevel"}:
            return GPT2_PATTERN if step.get("use_regex", True) else ""
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} if not step.get("invert"):
            return pattern
    raise UnsupportedModel(f"{path}: a pre-tokenizer {step['type']} like this has no name in a GGUF; write a folder")


def _check(path: Path, values: Mapping[str, Any], vocabulary: Vocabulary, *, is_alone: bool) -> None:
    """Raises UnsupportedModel where the same text would have other ids; is_alone: as a classifier reads it too."""
    written, read = Tokenizer(vocabulary_from_gguf(values)), Tokenizer(vocabulary)
    added = [piece for id in sorted(vocabulary.plain_ids) if (piece := vocabulary.pieces[id])]
    texts = (_PROBE, _PROBE.strip(), " ".join(added))
    is_other = any(written.encode(text) != read.encode(text) for text in texts) or written.eos_ids != read.eos_ids
    if is_other or (is_alone and written.encode_alone(texts) != read.encode_alone(texts)):
        raise UnsupportedModel(f"{path}: a GGUF of this tokenizer would cut text otherwise; write a folder instead")

"""A vocabulary from the metadata of a GGUF file: byte-level BPE (`gpt2`) and SentencePiece BPE (`llama`).

GGUF does not carry the rule that cuts text into words before merging, only its name (`tokenizer.ggml.pre`). The rules
below are those of each family's own tokenizer.json; llama.cpp knows them under the same names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.models.vocabulary import (
    ControlToken,
    Vocabulary,
    byte_level_bytes,
    check_id,
    end_ids,
    fresh_anchor,
    hidden,
    spm_bytes,
)

__all__ = [
    "CONTROL",
    "GPT2_PATTERN",
    "IGNORES_MERGES",
    "NFC",
    "PATTERNS",
    "UNUSED",
    "USER_DEFINED",
    "vocabulary_from_gguf",
]

UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 2, 3, 4, 5  # token types of GGUF; 1 normal, 6 byte
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# name -> the patterns that cut, one after the other
PATTERNS: dict[str, tuple[str, ...]] = {
    "smollm": (r"\p{N}", GPT2_PATTERN),
    "gpt-2": (GPT2_PATTERN,),
    "llama-bpe": (_WORDS.replace("{DIGITS}", "{1,3}"),),
    "qwen2": (_WORDS.replace("{DIGITS}", ""),),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"),
}
_SAME_AS = {
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
    "phi-2": "gpt-2",
}
IGNORES_MERGES = frozenset({"llama-bpe"})  # a whole word that is in the vocabulary is taken as it is
_ADDS_BOS = frozenset({"llama-bpe"})
NFC = frozenset({"qwen2"})  # as in the family's tokenizer.json; llama.cpp leaves this step out


def vocabulary_from_gguf(metadata: Mapping[str, Any]) -> Vocabulary:
    """Build a vocabulary from GGUF metadata (key -> value; arrays are sequences).

    Raises CorruptModel for metadata that contradict themselves, UnsupportedModel for a kind of tokenizer or
    pre-tokenizer that is not implemented.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None:
        raise CorruptModel("the file has no tokenizer (tokenizer.ggml.model is missing); take a complete GGUF file")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedModel(f"tokenizer.ggml.model {kind!r} is not supported; supported: gpt2, llama")
    pieces = _strings(metadata, "tokens")
    if not pieces:
        raise CorruptModel("tokenizer.ggml.tokens is empty; take the file anew")
    types = _numbers(metadata, "token_type", len(pieces)) or [1] * len(pieces)
    # A place without a token has a name in the file, `[PAD7]`, but it is a gap, as an empty one is.
    is_gap = [
        type == UNUSED and piece == f"[PAD{id}]" for id, (piece, type) in enumerate(zip(pieces, types, strict=True))
    ]
    pieces = ["" if is_gap[id] else piece for id, piece in enumerate(pieces)]
    control = tuple(ControlToken(piece, id) for id, piece in enumerate(pieces) if types[id] in (UNKNOWN, CONTROL))
    names = {token.text: token.id for token in control}
    # An empty piece is a gap: it gets a name of its own that nothing can spell.
    ids = {hidden(piece or str(id)) if piece in names or not piece else piece: id for id, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        twice = next(piece for id, piece in enumerate(pieces) if pieces.index(piece) != id)
        raise CorruptModel(f"tokenizer.ggml.tokens has the token {twice!r} twice; take the file anew")
    space_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", kind == "llama"))
    pre = _pre(metadata) if kind == "gpt2" else ""
    if kind == "gpt2":
        backend = _byte_level(ids, _merges(metadata, ids, names), pre, space_prefix)
    else:
        backend = _sentencepiece(ids, pieces, types, _scores(metadata, len(pieces)), space_prefix)
    user_defined = [piece for id, piece in enumerate(pieces) if types[id] == USER_DEFINED and piece]
    anchor = fresh_anchor()
    backend.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in [*user_defined, anchor]])
    special = {
        name: check_id(f"tokenizer.ggml.{name}_token_id", metadata.get(f"tokenizer.ggml.{name}_token_id"), len(pieces))
        for name in ("bos", "eos", "eot", "eom")
    }
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise CorruptModel("tokenizer.chat_template is not text; take the file anew")
    add_bos = bool(metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre in _ADDS_BOS))
    add_eos = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    bos, eos = special["bos"], special["eos"]
    return Vocabulary(
        backend=backend,
        anchor=anchor,
        pieces=[piece or None for piece in pieces],
        to_bytes=byte_level_bytes if kind == "gpt2" else spm_bytes,
        plain_ids=frozenset(id for id, type in enumerate(types) if type in (UNKNOWN, CONTROL, USER_DEFINED)),
        control=control,
        strip_first_space=kind == "llama" and space_prefix,
        bos_id=bos,
        eos_id=eos,
        end_ids=end_ids(control, (eos, special["eot"], special["eom"])),
        add_bos=add_bos,
        chat_template=template,
        before=(bos,) if add_bos and bos is not None else (),
        after=(eos,) if add_eos and eos is not None else (),
    )


def _pre(metadata: Mapping[str, Any]) -> str:
    given = metadata.get("tokenizer.ggml.pre", "default")
    name = _SAME_AS.get(given, given) if isinstance(given, str) else None
    if name not in PATTERNS:
        known = ", ".join(sorted([*PATTERNS, *_SAME_AS]))
        raise UnsupportedModel(f"tokenizer.ggml.pre {given!r} is not supported; supported: {known}")
    return name


def _byte_level(ids: dict[str, int], merges: list[tuple[str, str]], pre: str, space_prefix: bool) -> Backend:
    backend = Backend(models.BPE(vocab=ids, merges=merges, ignore_merges=pre in IGNORES_MERGES))
    if pre in NFC:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in PATTERNS[pre]),
            pre_tokenizers.ByteLevel(add_prefix_space=space_prefix, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(
    ids: dict[str, int], pieces: Sequence[str], types: Sequence[int], scores: Sequence[float], space_prefix: bool
) -> Backend:
    """SentencePiece BPE joins the pair whose result has the best score: every way to make a piece becomes a merge,
    ranked by that score. Raises CorruptModel for a vocabulary with neither byte pieces nor an unknown token."""
    makers = [id for id, piece in enumerate(pieces) if types[id] not in (UNKNOWN, CONTROL) and len(piece) > 1]
    makers.sort(key=lambda id: -scores[id])
    merges = [
        (pieces[id][:cut], pieces[id][cut:])
        for id in makers
        for cut in range(1, len(pieces[id]))
        if pieces[id][:cut] in ids and pieces[id][cut:] in ids
    ]
    unknown = next((hidden(pieces[id]) for id, type in enumerate(types) if type == UNKNOWN), None)
    if unknown is None and any(f"<0x{byte:02X}>" not in ids for byte in range(256)):
        raise CorruptModel("tokenizer.ggml.tokens has neither all byte tokens (<0x00> ...) nor an unknown token")
    backend = Backend(models.BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if space_prefix else spaces
    return backend


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int], control: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges as pairs, checked against the vocabulary; one that would make a control token is left out."""
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(_strings(metadata, "merges")):
        left, _, right = line.partition(" ")
        whole = left + right
        if left in control or right in control or whole in control:
            continue
        if not (left and right) or left not in ids or right not in ids or whole not in ids:
            raise CorruptModel(
                f"tokenizer.ggml.merges[{number}] is {line[:60]!r}, which does not join two tokens into a third; "
                "take the file anew"
            )
        merges.append((left, right))
    return merges


def _array(metadata: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        raise CorruptModel(f"tokenizer.ggml.{name} is missing; take a complete GGUF file")
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise CorruptModel(f"tokenizer.ggml.{name} is not an array; take the file anew")
    return value


def _strings(metadata: Mapping[str, Any], name: str) -> Sequence[str]:
    value = _array(metadata, name)
    if not set(map(type, value)) <= {str}:
        raise CorruptModel(f"tokenizer.ggml.{name} is not an array of strings; take the file anew")
    return value


def _numbers(metadata: Mapping[str, Any], name: str, length: int) -> Sequence[int] | None:
    if f"tokenizer.ggml.{name}" not in metadata:
        return None
    value = _array(metadata, name)
    if len(value) != length or not set(map(type, value)) <= {int, float}:
        raise CorruptModel(f"tokenizer.ggml.{name} has {len(value)} entries for {length} tokens, or is not numeric")
    return value


def _scores(metadata: Mapping[str, Any], length: int) -> Sequence[float]:
    scores = _numbers(metadata, "scores", length)
    if scores is None:
        raise CorruptModel("tokenizer.ggml.scores is missing; a SentencePiece vocabulary needs it to know its merges")
    return scores

"""A tokenizer cut down to one task: the tokens its texts need, and the bytes for everything else.

A trimmed tokenizer.json is the same tokenizer with fewer tokens: kept ones are renumbered in their old order, merges
keep theirs. Every text whose tokens were all kept is cut into the same pieces as before: no merge that its cutting
makes is missing (parts of a kept token are kept too), and none that is new can come before one of them. Other texts
are cut into shorter pieces, at worst into bytes.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from farthing.errors import CorruptModel, InvalidRequest, ModelNotFound, UnsupportedModel
from farthing.models.opening import read_json
from farthing.models.vocabulary_json import merge_pair

__all__ = ["read_tokenizer", "task_token_ids", "trim_tokenizer"]

Document = Mapping[str, Any]
_BYTES = frozenset(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)]))  # GPT-2's byte letters


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """A folder's tokenizer.json. Raises ModelNotFound, CorruptModel, UnsupportedModel (one that cannot be trimmed)."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelNotFound(f"{folder} has no tokenizer.json, so its vocabulary cannot be trimmed; use vocab=all")
    document = read_json(path)
    try:
        _check(path, document)
        Backend.from_str(json.dumps(document))
    except UnsupportedModel:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CorruptModel(f"{path} is not a usable tokenizer: {type(error).__name__}: {error}") from None
    return document


def _check(path: Path, document: Document) -> None:
    model = document["model"]
    kind = model.get("type", "BPE")
    if kind not in ("BPE", "Unigram"):
        raise UnsupportedModel(f"{path}: a tokenizer of type {kind!r} cannot be trimmed; use vocab=all")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedModel(f"{path}: a tokenizer with {key} cannot be trimmed; use vocab=all")


def task_token_ids(document: Document, seen: Iterable[int], size: int | None = None) -> tuple[int, ...]:
    """The ids to keep, ascending: those seen in the task's texts, added tokens, bytes, and all that merges of these
    need; with `size` also the next tokens in the vocabulary's order (of BPE the most frequent first), up to so many.

    Raises InvalidRequest where an id is none of the tokenizer's, or `size` is less than what has to be kept.
    """
    by_text = _texts(document)
    by_id = {id: text for text, id in by_text.items()}
    wanted = set(seen)
    if unknown := wanted - by_id.keys():
        raise InvalidRequest(f"the texts have the token id {min(unknown)}, which this tokenizer.json does not know")
    wanted |= {token["id"] for token in document["added_tokens"]} | _always(document, by_text)
    parts = _parts(document)
    kept = _closed({by_id[id] for id in wanted}, parts) & by_text.keys()
    if size is not None:
        if size < len(kept):
            raise InvalidRequest(
                f"vocab={size}: the task needs {len(kept)} tokens; give as many or more, or vocab=task"
            )
        for id in sorted(by_id):
            more = kept | (_closed({by_id[id]}, parts) & by_text.keys())
            if len(kept) == size:
                break
            kept = more if len(more) <= size else kept
    return tuple(sorted(by_text[text] for text in kept))


def _texts(document: Document) -> dict[str, int]:
    """Every token's id, added ones as well."""
    vocab = document["model"]["vocab"]
    texts = {text: id for id, (text, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return texts | {token["content"]: token["id"] for token in document["added_tokens"]}


def _always(document: Document, by_text: Mapping[str, int]) -> set[int]:
    """What spells any text at all: bytes, under either of their names, and the unknown token."""
    model = document["model"]
    names = [*_BYTES, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", model.get("unk_token") or ""]
    ids = {by_text[name] for name in names if name in by_text}
    return ids | ({model["unk_id"]} if model.get("unk_id") is not None else set())


def _parts(document: Document) -> dict[str, list[str]]:
    """What each token can be merged from; of Unigram, which merges nothing, its letters."""
    model = document["model"]
    if isinstance(model["vocab"], list):
        return {text: list(text) for text, _ in model["vocab"] if len(text) > 1}
    parts: dict[str, list[str]] = {}
    for left, right, whole in map(merge_pair, model["merges"]):
        parts.setdefault(whole, []).extend((left, right))
    return parts


def _closed(texts: set[str], parts: Mapping[str, Sequence[str]]) -> set[str]:
    closed, waiting = set(texts), list(texts)
    while waiting:
        new = set(parts.get(waiting.pop(), ())) - closed
        closed |= new
        waiting.extend(new)
    return closed


def trim_tokenizer(document: Document, kept: Sequence[int]) -> dict[str, Any]:
    """tokenizer.json with the tokens `kept` alone, as `task_token_ids` chose them: number i was kept[i].

    Raises InvalidRequest where a token is missing that the tokenizer cannot do without.
    """
    new_ids = {old: new for new, old in enumerate(kept)}
    model = dict(document["model"])
    if missing := [token["content"] for token in document["added_tokens"] if token["id"] not in new_ids]:
        raise InvalidRequest(f"the trimmed vocabulary lacks the added token {missing[0]!r}; keep all of them")
    if isinstance(model["vocab"], list):
        model["vocab"] = [entry for id, entry in enumerate(model["vocab"]) if id in new_ids]
        model["unk_id"] = None if model.get("unk_id") is None else new_ids[model["unk_id"]]
    else:
        model["vocab"] = {text: new_ids[id] for text, id in model["vocab"].items() if id in new_ids}
        model["merges"] = [merge for merge in model["merges"] if model["vocab"].keys() >= set(merge_pair(merge))]
    added = [{**token, "id": new_ids[token["id"]]} for token in document["added_tokens"]]
    processor = _renumbered(document.get("post_processor"), lambda id: new_ids[id])
    trimmed = {**document, "model": model, "added_tokens": added, "post_processor": processor}
    backend = Backend.from_str(json.dumps(trimmed))
    for token in added:
        if backend.token_to_id(token["content"]) != token["id"]:
            raise UnsupportedModel(f"the added token {token['content']!r} cannot be renumbered; use vocab=all")
    return trimmed


def _renumbered(processor: Any, new_id: Callable[[int], int]) -> Any:
    """A post-processor (or a sequence of them) with the ids of its special tokens renumbered."""
    if processor is None:
        return None
    kind = processor["type"]
    if kind == "Sequence":
        return {**processor, "processors": [_renumbered(one, new_id) for one in processor["processors"]]}
    if kind == "TemplateProcessing":
        specials = processor["special_tokens"].items()
        named = {name: {**token, "ids": [new_id(id) for id in token["ids"]]} for name, token in specials}
        return {**processor, "special_tokens": named}
    if kind in ("BertProcessing", "RobertaProcessing"):
        return {**processor, **{key: [processor[key][0], new_id(processor[key][1])] for key in ("cls", "sep")}}
    return processor

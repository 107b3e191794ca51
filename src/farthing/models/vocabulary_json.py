"""A vocabulary from a Hugging Face folder: tokenizer.json, tokenizer_config.json, generation_config.json and
chat_template.jinja. tokenizer.json is the `tokenizers` library's own format: normalizer, pre-tokenizer and model are
taken as written; only the control tokens are renamed (see `vocabulary`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from farthing.errors import CorruptModel, ModelNotFound, UnsupportedModel
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

__all__ = ["flat_steps", "merge_pair", "read_object", "vocabulary_from_folder"]


def vocabulary_from_folder(folder: Path) -> Vocabulary:
    """Raises ModelNotFound where there is no tokenizer.json, CorruptModel, UnsupportedModel."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelNotFound(f"{folder} has no tokenizer.json; take the whole repository (farthing pull hf:<repo>)")
    document = read_object(path)
    config = read_object(folder / "tokenizer_config.json")
    generation = read_object(folder / "generation_config.json")
    try:
        return _vocabulary(path, document, config, generation, _template(folder, config))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise CorruptModel(f"{path} is not a tokenizer ({type(error).__name__}: {error}); take the file anew") from None


def _vocabulary(
    path: Path, document: dict[str, Any], config: dict[str, Any], generation: dict[str, Any], template: str | None
) -> Vocabulary:
    kind = document["model"].get("type", "BPE")
    if kind not in ("BPE", "Unigram"):
        raise UnsupportedModel(f"{path}: a tokenizer of type {kind!r} is not supported; supported: BPE, Unigram")
    steps = {step["type"]: step for key in ("pre_tokenizer", "decoder") for step in flat_steps(document.get(key))}
    byte_level = "ByteLevel" in steps
    strips = _strips_first_space(document)
    control = _control(path, document["added_tokens"])
    plain = frozenset(token["id"] for token in document["added_tokens"])
    pieces = _pieces(document)
    anchor = fresh_anchor()
    before, after = _around(document.get("post_processor"))
    backend = _backend(path, document, control, anchor)
    by_text = {token.text: token.id for token in control}
    bos, eos = (by_text.get(_name(config.get(f"{which}_token"))) for which in ("bos", "eos"))
    if before:
        bos = before[0]
    declared = generation.get("eos_token_id")
    ends = declared if isinstance(declared, list) else [declared]
    name = "generation_config.json: eos_token_id"
    return Vocabulary(
        backend=backend,
        anchor=anchor,
        pieces=pieces,
        to_bytes=byte_level_bytes if byte_level else spm_bytes,
        plain_ids=plain,
        control=control,
        strip_first_space=not byte_level and strips,
        bos_id=check_id(f"{path}: bos_token", bos, len(pieces)),
        eos_id=eos,
        end_ids=end_ids(control, [eos, *(check_id(name, id, len(pieces)) for id in ends)]),
        add_bos=bool(before) or (bool(config.get("add_bos_token", False)) and bos is not None),
        chat_template=template,
        before=tuple(before),
        after=tuple(after),
    )


def _backend(path: Path, document: dict[str, Any], control: tuple[ControlToken, ...], anchor: str) -> Backend:
    """The library's tokenizer, its control tokens hidden. Changes `document`."""
    model, names = document["model"], {token.text for token in control}
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {hidden(text) if text in names else text: id for text, id in vocab.items()}
        model["merges"] = [merge for merge in model["merges"] if not names.intersection(merge_pair(merge))]
    else:
        model["vocab"] = [[hidden(text) if text in names else text, score] for text, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = hidden(model["unk_token"])
    for token in document["added_tokens"]:
        if token["content"] in names:
            token["content"] = hidden(token["content"])
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    size = max([*(token["id"] for token in document["added_tokens"]), len(vocab) - 1]) + 1
    document["added_tokens"].append({"id": size, "content": anchor, **plain})
    document.update(post_processor=None, truncation=None, padding=None)
    try:
        backend = Backend.from_str(json.dumps(document))
    except Exception as error:  # the library raises nothing narrower
        raise CorruptModel(f"{path} is not a usable tokenizer: {error}") from None
    for token in control:
        if backend.token_to_id(hidden(token.text)) != token.id:
            raise CorruptModel(f"{path}: {token.text!r} has the id {token.id}, which its place contradicts")
    return backend


def _control(path: Path, added: list[dict[str, Any]]) -> tuple[ControlToken, ...]:
    for token in added:
        if token.get("single_word") and token["special"]:
            raise UnsupportedModel(f"{path}: control token {token['content']!r} with single_word is not supported")
    return tuple(
        ControlToken(token["content"], token["id"], token.get("lstrip", False), token.get("rstrip", False))
        for token in added
        if token["special"]
    )


def _pieces(document: Mapping[str, Any]) -> list[str | None]:
    vocab = document["model"]["vocab"]
    texts = {text: id for id, (text, _) in enumerate(vocab)} if isinstance(vocab, list) else vocab
    by_id = {id: text for text, id in texts.items()}
    by_id |= {token["id"]: token["content"] for token in document["added_tokens"]}
    if len(by_id) and (min(by_id) < 0 or max(by_id) > 4 * len(by_id) + 1000):
        raise CorruptModel(f"tokenizer.json has ids from {min(by_id)} to {max(by_id)} for {len(by_id)} tokens")
    return [by_id.get(id) for id in range(max(by_id, default=-1) + 1)]


def flat_steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A pre-tokenizer, normalizer, decoder or post-processor as a flat list."""
    if part is None:
        return []
    inner = next((part[key] for key in ("pretokenizers", "normalizers", "decoders", "processors") if key in part), None)
    return [part] if inner is None else [step for one in inner for step in flat_steps(one)]


def _strips_first_space(document: Mapping[str, Any]) -> bool:
    for step in flat_steps(document.get("decoder")):
        if step["type"] == "Strip" and step.get("start"):
            return True
        if step["type"] == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never")
    return False


def _around(post_processor: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """The ids that the reference puts before a text and after it."""
    before: list[int] = []
    after: list[int] = []
    for step in flat_steps(post_processor):
        if step["type"] == "TemplateProcessing":
            ids = before
            for item in step["single"]:
                if "Sequence" in item:
                    ids = after
                else:
                    ids += step["special_tokens"][item["SpecialToken"]["id"]]["ids"]
    return before, after


def merge_pair(merge: str | list[str]) -> tuple[str, str, str]:
    """The two tokens of a merge, as either version of the format writes it, and what they make."""
    left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
    return left, right, left + right


def _name(token: str | Mapping[str, str] | None) -> str:
    return token["content"] if isinstance(token, Mapping) else token or ""


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no file. Raises CorruptModel."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptModel(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptModel(f"{path} does not hold a JSON object")
    return value

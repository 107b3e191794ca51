"""What a classifier answers with: the labels of a model whose head is one row per label and not per token.

A Hugging Face folder of `...ForSequenceClassification` has the tensor `score.weight` and `id2label`; a GGUF has
`cls.output.weight` and `classifier.output_labels`, as llama.cpp writes them. Its last token stands for the text.
"""

from collections.abc import Collection, Mapping
from typing import Any

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.models.fields import Fields

__all__ = ["GGUF_HEAD", "HF_HEAD", "checked_labels", "labels_of_gguf", "labels_of_hf"]

HF_HEAD, GGUF_HEAD = "score.weight", "cls.output.weight"
_CLASSIFIER = "ForSequenceClassification"
_LAST_TOKEN = {3: "last", 4: "rank"}  # llama.cpp's pooling types under which the last token is what the head reads
_MOST_LABELS = 1 << 20
_UNKNOWN_PARTS = ("cls.weight", "cls.bias", "cls.output.bias", "cls.norm.weight")


def labels_of_hf(config: Fields) -> tuple[str, ...]:
    """The labels in the order of the head's rows; () where config.json is not a classifier's.

    Raises CorruptModel where id2label, label2id and num_labels are not one list of different names, UnsupportedModel
    for a head that does not choose one of its labels.
    """
    names = config.raw.get("architectures")
    if not isinstance(names, list) or not any(str(name).endswith(_CLASSIFIER) for name in names):
        return ()
    kind = config.text("problem_type", "single_label_classification")
    if kind != "single_label_classification":
        raise UnsupportedModel(f"{config.place}: problem_type is {kind!r}; supported: single_label_classification")
    given = config.section("id2label")
    num_labels = config.integer("num_labels", 2 if given is None else len(given.raw))
    if not 0 < num_labels <= _MOST_LABELS:
        raise CorruptModel(f"{config.place}: num_labels is {num_labels}; allowed: 1 to {_MOST_LABELS}")
    if given is None:  # transformers leaves out names that nobody gave
        return checked_labels(config.place, tuple(f"LABEL_{i}" for i in range(num_labels)))
    if given.raw.keys() != {str(i) for i in range(num_labels)}:
        what = f"id2label has the keys {', '.join(map(str, list(given.raw)[:5]))}, …"
        raise CorruptModel(
            f"{config.place}: {what}; allowed: 0 to {num_labels - 1}, one for each of {num_labels} labels"
        )
    labels = checked_labels(config.place, tuple(given.text(str(i)) for i in range(num_labels)))
    back = config.section("label2id")
    if back is not None and dict(back.raw) != {label: i for i, label in enumerate(labels)}:
        raise CorruptModel(f"{config.place}: label2id is not id2label the other way round; leave one of the two out")
    return labels


def labels_of_gguf(metadata: Mapping[str, Any], architecture: str, tensors: Collection[str]) -> tuple[str, ...]:
    """The labels in the order of the head's rows; () where the GGUF is not a classifier's. Raises CorruptModel,
    UnsupportedModel."""
    if GGUF_HEAD not in tensors:
        return ()
    for name in _UNKNOWN_PARTS:
        if name in tensors:
            raise UnsupportedModel(f"the GGUF has a tensor {name}; supported: a head of {GGUF_HEAD} alone")
    fields = Fields(metadata, "the GGUF metadata", prefix=f"{architecture}.")
    pooling = fields.integer("pooling_type", 3)
    if pooling not in _LAST_TOKEN:
        allowed = ", ".join(f"{number} ({name})" for number, name in _LAST_TOKEN.items())
        raise UnsupportedModel(f"{architecture}.pooling_type of a classifier is {pooling}; supported: {allowed}")
    key = f"{architecture}.classifier.output_labels"
    labels = metadata.get(key)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CorruptModel(f"{key} is {labels!r:.60}; allowed: a list of texts, one for each row of {GGUF_HEAD}")
    return checked_labels(key, tuple(labels))


def checked_labels(place: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels. Raises UnsupportedModel for fewer than two, CorruptModel for names that do not tell them apart."""
    if len(labels) < 2:
        raise UnsupportedModel(f"{place}: a classifier with {len(labels)} label; supported: two or more")
    for label in labels:
        if not label.strip():
            raise CorruptModel(f"{place}: the label {label!r} has no text")
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise CorruptModel(f"{place}: two labels are called {twice!r}; each needs a name of its own")
    return labels

"""A scorer's arrays by name, as the file keeps them, and back. Buckets that no training text had are left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import NUM_BUCKETS
from farthing.router.blocks import NUM_COSINES, FormBlock, TextBlock
from farthing.router.checks import CHECK_NAMES
from farthing.router.code import CODE_NAMES
from farthing.router.encode import ANSWER_KINDS, PROMPT_KINDS
from farthing.router.file import Contents
from farthing.router.scorers import TOPICS, Scorer
from farthing.router.signals import SIGNAL_NAMES
from farthing.router.structure import NAMES
from farthing.router.topics import Topics

__all__ = ["read_scorer", "scorer_arrays"]

Arrays = Mapping[str, NDArray[Any]]
_WIDTHS = {
    "form": len(NAMES),
    "checks": len(CHECK_NAMES),
    "code": len(CODE_NAMES),
    "signals": len(SIGNAL_NAMES),
    "hidden": None,  # whatever it was trained with
}


def scorer_arrays(scorer: Scorer, prefix: str) -> Arrays:
    arrays: dict[str, NDArray[Any]] = {f"{prefix}.means": scorer.means}
    for name, text in scorer.texts.items():
        used = np.flatnonzero(text.idf > 0)
        arrays[f"{prefix}.{name}.buckets"] = used.astype(np.int32)
        arrays[f"{prefix}.{name}.idf"] = text.idf[used].astype(np.float32)
        arrays[f"{prefix}.{name}.weights"] = scorer.weights[name][used].astype(np.float32)
    for name, form in scorer.forms.items():
        for part, values in (("center", form.center), ("scale", form.scale), ("phases", form.phases)):
            arrays[f"{prefix}.{name}.{part}"] = values
        arrays[f"{prefix}.{name}.directions"] = form.directions
        arrays[f"{prefix}.{name}.weights"] = scorer.weights[name].astype(np.float32)
    used = np.flatnonzero(scorer.topics.log_words.any(axis=1))
    arrays[f"{prefix}.topics.buckets"] = used.astype(np.int32)
    arrays[f"{prefix}.topics.words"] = scorer.topics.log_words[used].astype(np.float32)
    arrays[f"{prefix}.topics.shares"] = scorer.topics.log_shares
    arrays[f"{prefix}.topics.weights"] = scorer.weights[TOPICS].astype(np.float32)
    return arrays


def read_scorer(contents: Contents, prefix: str, num_models: int, reads_answers: bool) -> Scorer:
    kinds = [*PROMPT_KINDS, *(f"answer {kind}" for kind in ANSWER_KINDS if reads_answers)]
    names = ["form", "hidden", *(("checks", "code", "signals") if reads_answers else ())]  # as they were learned
    names = [name for name in names if name in ("form", "checks") or contents.has(f"{prefix}.{name}.center")]
    weights: dict[str, NDArray[np.float64]] = {}
    texts = {name: _text(contents, f"{prefix}.{name}", num_models, weights, name) for name in kinds}
    forms = {name: _form(contents, f"{prefix}.{name}", num_models, weights, name) for name in names}
    log_shares = contents.array(f"{prefix}.topics.shares", (None,))
    num_topics = len(log_shares)
    used = _buckets(contents, f"{prefix}.topics.buckets")
    log_words = np.zeros((NUM_BUCKETS, num_topics))
    log_words[used] = contents.array(f"{prefix}.topics.words", (len(used), num_topics))
    weights[TOPICS] = contents.array(f"{prefix}.topics.weights", (num_topics, num_models))
    penalty = contents.value(f"{prefix}.penalty", (int, float))
    means = contents.array(f"{prefix}.means", (num_models,))
    return Scorer(means, texts, forms, Topics(log_words, log_shares), weights, float(penalty))


def _text(
    contents: Contents, path: str, num_models: int, weights: dict[str, NDArray[np.float64]], name: str
) -> TextBlock:
    used = _buckets(contents, f"{path}.buckets")
    idf, dense = np.zeros(NUM_BUCKETS), np.zeros((NUM_BUCKETS, num_models))
    idf[used] = contents.array(f"{path}.idf", (len(used),))
    dense[used] = contents.array(f"{path}.weights", (len(used), num_models))
    weights[name] = dense
    if (idf < 0).any():
        raise contents.corrupt(f"{path}.idf is negative")
    return TextBlock(idf)


def _form(
    contents: Contents, path: str, num_models: int, weights: dict[str, NDArray[np.float64]], name: str
) -> FormBlock:
    center = contents.array(f"{path}.center", (_WIDTHS[name],))
    scale = contents.array(f"{path}.scale", (len(center),))
    directions = contents.array(f"{path}.directions", (len(center), NUM_COSINES))
    phases = contents.array(f"{path}.phases", (NUM_COSINES,))
    weights[name] = contents.array(f"{path}.weights", (NUM_COSINES, num_models))
    return FormBlock(center, scale, directions, phases)


def _buckets(contents: Contents, name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = contents.array(name, (None,), is_integer=True)
    if len(found) and (found[0] < 0 or found[-1] >= NUM_BUCKETS or (np.diff(found) <= 0).any()):
        raise contents.corrupt(f"{name} are not rising buckets below {NUM_BUCKETS}")
    return found

"""Why a router decides as it does, in words: what of a prompt or of an answer adds most to the score.

A score is a sum over blocks. A word's part is exact (its bucket's weight and those of the parts of it); a feature's
part of a form is what the score loses when that feature alone is set to the training rows' mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import NUM_BUCKETS, grams, words
from farthing.router.checks import CHECK_NAMES
from farthing.router.code import CODE_NAMES
from farthing.router.encode import Encoded, encode_answers, encode_prompts
from farthing.router.scorers import Scorer
from farthing.router.structure import NAMES
from farthing.router.trained import Trained

__all__ = ["AnswerReason", "Reason", "Why", "explain", "explain_answer"]

Vector = NDArray[np.float64]
NUM_REASONS = 5
LENGTHS = (
    "log_chars", "log_letters", "log_body_chars", "log_words", "log_distinct_words", "distinct_share", "log_sentences",
    "log_lines",
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    what: str
    amount: float  # of expected quality; above 0 speaks for the larger model, or for the answer being right


@dataclass(frozen=True)
class Why:
    """Of the dearest model's expected lead over the cheapest. The parts and `usual` add up to `lead`."""

    model: str | None  # None where no threshold was proven
    quality: Mapping[str, float]
    lead: float
    usual: float  # the lead over all prompts
    parts: tuple[Reason, ...]  # length, form, words, topic, …: the largest first
    words: tuple[Reason, ...]  # the largest single ones
    topic: tuple[str, ...]
    threshold: float | None  # the lead above which the dearer of two models is asked; None: not one number, or not set


@dataclass(frozen=True)
class AnswerReason:
    p_right: float
    next_model: str  # that is asked where it is not kept
    next_quality: float  # expected of that model
    escalates: bool | None  # None where no threshold was proven
    threshold: float | None  # the chance of being right below which the next model is asked
    reasons: tuple[Reason, ...]  # of the score, before it is made a probability


def explain(trained: Trained, prompt: str) -> Why:
    scorer, encoded = trained.before, encode_prompts([prompt])
    parts = {name: float(part[0, -1] - part[0, 0]) for name, part in scorer.parts(encoded).items()}
    quality = scorer.means + sum(part[0] for part in scorer.parts(encoded).values())
    usual = float(scorer.means[-1] - scorer.means[0])
    of_form = parts.pop("form")
    of_length = _form_part(scorer, encoded, "form", [NAMES.index(name) for name in LENGTHS], _lead)
    reasons = {
        "length": of_length,
        "form": of_form - of_length,
        "words": parts.pop("words") + parts.pop("pairs") + parts.pop("parts"),
        "topic": parts.pop("topics"),
        **{f"{name} states": amount for name, amount in parts.items()},
    }
    topic = int(np.argmax(scorer.topics.shares(encoded.texts["words"])[0]))
    found = trained.proven.get("route")
    model = trained.decide(prompt).model if found is not None and found.price is not None else None
    return Why(
        model,
        dict(zip(trained.models, map(float, quality), strict=True)),
        float(quality[-1] - quality[0]),
        usual,
        _largest(reasons, len(reasons)),
        _largest(_word_parts(scorer, prompt, encoded, ""), NUM_REASONS),
        trained.topic_words[topic],
        _lead_threshold(trained),
    )


def explain_answer(trained: Trained, prompt: str, answer: str) -> AnswerReason:
    """Raises InvalidRequest where the router was trained without answers."""
    p_right = trained.p_right([prompt], [answer])
    check = trained.check
    assert check is not None, "p_right raises where there is none"
    encoded = encode_answers([prompt], [answer])
    reasons = {
        name.replace("_", " "): _form_part(check.scorer, encoded, form, [index], _first)
        for form, names in (("checks", CHECK_NAMES), ("code", CODE_NAMES))
        if form in check.scorer.forms
        for index, name in enumerate(names)
    }
    reasons |= {f"“{name}”": amount for name, amount in _word_parts(check.scorer, answer, encoded, "answer ").items()}
    found = trained.proven.get("cascade")
    escalates = threshold = None
    if found is not None and found.price is not None:
        escalates = bool(trained.escalates(p_right)[0])
        if isfinite(found.price):
            threshold = float(trained.worths(0, found.price).max())
    to = int(trained.next_model(p_right)[0]) if escalates else 1
    return AnswerReason(
        float(p_right[0]),
        trained.models[to],
        check.next_quality[to - 1],
        escalates,
        threshold,
        _largest(reasons, NUM_REASONS),
    )


def _lead_threshold(trained: Trained) -> float | None:
    found = trained.proven.get("route")
    if found is None or found.price is None or not isfinite(found.price) or len(trained.models) > 2:
        return None
    return found.price * (trained.costs[1] - trained.costs[0])


def _lead(weights: Vector) -> Vector:
    """Of weights [features, k]: those of the dearest model's lead."""
    return np.asarray(weights[:, -1] - weights[:, 0])


def _first(weights: Vector) -> Vector:
    return np.asarray(weights[:, 0])


def _form_part(
    scorer: Scorer, encoded: Encoded, name: str, columns: Sequence[int], of: Callable[[Vector], Vector]
) -> float:
    block, values = scorer.forms[name], encoded.forms[name]
    without = values.copy()
    without[:, list(columns)] = block.center[list(columns)]
    weights = of(scorer.weights[name])
    return float(((block.rows(values) - block.rows(without)) @ weights)[0])


def _word_parts(scorer: Scorer, text: str, encoded: Encoded, prefix: str) -> dict[str, float]:
    """Each word with the parts of it, each pair of neighbours; what two words share counts for the first."""
    of = _first if prefix else _lead
    found: dict[str, float] = {}
    weight = {}
    for kind in ("words", "pairs", "parts"):
        name = prefix + kind
        if name in scorer.weights:
            length = float(np.sqrt(max(encoded.texts[name].sums(scorer.texts[name].idf ** 2)[0], 1e-12)))
            weight[kind] = of(scorer.weights[name]) / length
    seen = {kind: np.zeros(NUM_BUCKETS, np.bool_) for kind in weight}
    spoken = words(text)
    pieces = [(word, kind) for word in dict.fromkeys(spoken) for kind in ("words", "parts")]
    pieces += [(f"{first} {second}", "pairs") for first, second in dict.fromkeys(pairwise(spoken))]
    for piece, kind in pieces:
        if kind not in weight:
            continue
        new = [int(bucket) for bucket in grams(piece)[kind] if not seen[kind][bucket]]
        seen[kind][new] = True
        found[piece] = found.get(piece, 0.0) + float(weight[kind][new].sum())
    return found


def _largest(amounts: Mapping[str, float], num: int) -> tuple[Reason, ...]:
    ordered = sorted(amounts.items(), key=lambda item: -abs(item[1]))
    return tuple(Reason(name, amount) for name, amount in ordered[:num] if abs(amount) > 1e-9)

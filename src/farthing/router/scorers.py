"""A linear model over blocks of features: a quality for each of k models from one prompt, in under a millisecond.

    quality_k = mean_k + (tf-idf of each text block + cosines of each form + shares of topics) · weights_k

For two models the difference of the two qualities, the expected gap, decides; since ridge regression is linear in its
targets, learning the qualities together is learning the gap. After an answer the same model reads its words and checks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.blocks import FormBlock, TextBlock, form_block, text_block
from farthing.router.code import CODE_NAMES
from farthing.router.encode import Encoded
from farthing.router.ridge import best_fit
from farthing.router.topics import Topics, learn_topics

__all__ = ["AFTER_ANSWER", "BEFORE_CALL", "Learned", "Recipe", "Scorer", "learn"]

Matrix = NDArray[np.float64]
MAX_ROWS = 4_000  # the dual form is cubic in them, and labels saturate before
MIN_ROWS = 20
MIN_CODE = 0.02  # of answers: below that the checks of code are noise
TOPICS = "topics"


@dataclass(frozen=True)
class Recipe:
    """The blocks and how much each counts; the penalties among which leave-one-out errors choose."""

    weights: Mapping[str, float]
    penalties: tuple[float, ...]


# Chosen on a part of RouteLLM's rows that its benchmark does not test: see docs/routing.md.
BEFORE_CALL = Recipe(
    {"words": 1.0, "pairs": 1.0, "parts": 1.0, "form": 1.0, "hidden": 1.0, TOPICS: 0.03}, penalties=(30.0,)
)
AFTER_ANSWER = Recipe(
    {
        "words": 1.0, "pairs": 1.0, "parts": 1.0, "answer words": 1.0, "answer pairs": 1.0, "form": 0.3, "checks": 5.0,
        "code": 5.0, "signals": 3.0, "hidden": 3.0, TOPICS: 0.03,
    },
    penalties=(50.0, 15.0),
)  # fmt: skip


@dataclass(frozen=True)
class Scorer:
    means: Matrix  # [k]
    texts: Mapping[str, TextBlock]
    forms: Mapping[str, FormBlock]
    topics: Topics
    weights: Mapping[str, Matrix]  # of every block, "topics" included: [its features, k]
    penalty: float

    def quality(self, encoded: Encoded) -> Matrix:
        """[n, k]: the expected quality of each model's answer."""
        total = np.tile(self.means, (len(encoded), 1))
        for part in self.parts(encoded).values():
            total += part
        return total

    def parts(self, encoded: Encoded) -> dict[str, Matrix]:
        """What each block adds to each model's quality: [n, k] by name."""
        given = {*encoded.texts, *encoded.forms}
        missing = [name for name in (*self.texts, *self.forms) if name not in given]
        if missing:
            raise InvalidRequest(f"this router was trained with {', '.join(missing)}, which were not given")
        found = {name: block.apply(encoded.texts[name], self.weights[name]) for name, block in self.texts.items()}
        for name, block in self.forms.items():
            found[name] = block.rows(encoded.forms[name]) @ self.weights[name]
        found[TOPICS] = self.topics.shares(encoded.texts["words"]) @ self.weights[TOPICS]
        return found


@dataclass(frozen=True)
class Learned:
    scorer: Scorer
    rows: NDArray[np.int64]  # of the training part that were learned from: all of them up to MAX_ROWS
    left_out: Matrix  # [len(rows), k]: the quality of each by a scorer that did not see its label


def learn(encoded: Encoded, targets: Matrix, recipe: Recipe, seed: int = 0) -> Learned:
    """`targets` [n, k]: the quality of each model's answer, 0 to 1. Raises InvalidRequest for too few rows.

    Where hardly an answer has code, nothing is learned of it.
    """
    if targets.ndim != 2 or len(targets) != len(encoded):
        raise InvalidRequest(f"labels of shape {targets.shape} for {len(encoded)} prompts")
    if len(encoded) < MIN_ROWS:
        raise InvalidRequest(f"{len(encoded)} labelled rows; at least {MIN_ROWS} are needed, 1,500 are worth having")
    rng = np.random.default_rng(seed)
    rows = np.arange(len(encoded))
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.choice(len(rows), MAX_ROWS, replace=False))
        encoded, targets = encoded.take(rows), targets[rows]
    texts = {name: text_block(part) for name, part in encoded.texts.items()}
    used = {name: values for name, values in encoded.forms.items() if name != "code" or _is_coded(values)}
    forms = {name: form_block(values, rng) for name, values in used.items()}
    topics = learn_topics(encoded.texts["words"], rng)
    features: dict[str, Matrix] = {name: texts[name].rows(encoded.texts[name]) for name in texts}
    features |= {name: forms[name].rows(encoded.forms[name]) for name in forms}
    features[TOPICS] = topics.shares(encoded.texts["words"])
    scales = [recipe.weights[name] for name in features]
    grams = [(values @ values.T).astype(np.float64) for values in features.values()]
    found = best_fit(grams, [scales], targets, recipe.penalties)
    weights = _primal(features, scales, texts, found.dual)
    return Learned(Scorer(found.means, texts, forms, topics, weights, found.penalty), rows, found.left_out)


def _is_coded(values: Matrix) -> bool:
    return bool((values[:, CODE_NAMES.index("has_code")] > 0).mean() >= MIN_CODE)


def _primal(
    features: Mapping[str, Matrix], scales: Sequence[float], texts: Mapping[str, TextBlock], dual: Matrix
) -> dict[str, Matrix]:
    """Weights of features instead of training rows. Rounded as the file keeps them, so that it changes no decision."""
    weights = {}
    for (name, rows), scale in zip(features.items(), scales, strict=True):
        found = texts[name].weights(rows, scale * dual) if name in texts else rows.T @ (scale * dual)
        weights[name] = found.astype(np.float32).astype(np.float64)
    return weights

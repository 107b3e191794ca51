"""Texts as the linear models read them: buckets of each kind, and rows of numbers for each form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.models.grams import Grams, Sparse, grams, sparse
from farthing.router.checks import checks
from farthing.router.code import code_checks
from farthing.router.structure import structure

__all__ = ["Encoded", "encode_answers", "encode_prompts"]

Matrix = NDArray[np.float64]
PROMPT_KINDS = ("words", "pairs", "parts")
ANSWER_KINDS = ("words", "pairs")


@dataclass(frozen=True)
class Encoded:
    texts: Mapping[str, Sparse]  # by name: "words", …, "answer words", …
    forms: Mapping[str, Matrix]  # by name: "form", "checks", "code", "signals", "hidden": [n, d]

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    def take(self, rows: NDArray[np.int64]) -> "Encoded":
        return Encoded(
            {name: texts.take(rows) for name, texts in self.texts.items()},
            {name: values[rows] for name, values in self.forms.items()},
        )


def encode_prompts(prompts: Sequence[str], hidden: Matrix | None = None) -> Encoded:
    """`hidden`, where given: a row of numbers per prompt that a local model computed anyway, nan where not known."""
    found = [grams(prompt) for prompt in prompts]
    forms = {"form": np.array([structure(prompt) for prompt in prompts])}
    if hidden is not None:
        if hidden.ndim != 2 or len(hidden) != len(prompts) or np.isinf(hidden).any():
            raise InvalidRequest(f"hidden states of shape {hidden.shape}; {len(prompts)} rows of finite numbers needed")
        forms["hidden"] = hidden.astype(np.float64)
    return Encoded(_texts(found, PROMPT_KINDS, ""), forms)


def encode_answers(
    prompts: Sequence[str], answers: Sequence[str], hidden: Matrix | None = None, signals: Matrix | None = None
) -> Encoded:
    """The prompts, and what the small model answered: its words, the checks that it passed or failed, and where given
    its signals (a row of SIGNAL_NAMES each, nan where not known)."""
    if len(answers) != len(prompts):
        raise InvalidRequest(f"{len(answers)} answers to {len(prompts)} prompts")
    of_prompts = encode_prompts(prompts, hidden)
    found = [grams(answer) for answer in answers]
    both = list(zip(prompts, answers, strict=True))
    forms = {**of_prompts.forms, "checks": np.array([checks(prompt, answer) for prompt, answer in both])}
    forms["code"] = np.array([code_checks(prompt, answer) for prompt, answer in both])
    forms |= {} if signals is None else {"signals": signals}
    return Encoded({**of_prompts.texts, **_texts(found, ANSWER_KINDS, "answer ")}, forms)


def _texts(found: Sequence[Grams], kinds: Sequence[str], prefix: str) -> dict[str, Sparse]:
    return {prefix + kind: sparse(found, kind) for kind in kinds}

"""What gives texts their labels: one model (classifier.py), or several one after the other (cascade_classifier.py)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.models import Model

if TYPE_CHECKING:
    from farthing.engine.classifier import ClassifierConfig, ClassifierStats

__all__ = ["Labelled", "Labeller", "Prompt", "cut", "split_ns"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """token_ids: of the labeller's own tokenizer. text: None where it came as token ids."""

    token_ids: Sequence[int]
    text: str | None = None


@dataclass(frozen=True)
class Labelled:
    """Of n texts. times_ns: of computing alone, in whole nanoseconds; each pays for the stages that were asked."""

    logs: NDArray[np.float32]  # [n, num_labels] natural logarithms of probabilities
    stages: NDArray[np.int64]  # [n] which stage answered
    times_ns: NDArray[np.int64]  # [n]


class Labeller(Protocol):
    """Not safe for concurrent calls. What a text gets is the same, bit for bit, in any company."""

    labels: tuple[str, ...]
    stages: tuple[str, ...]  # names; () of a single model
    model: Model  # whose tokenizer counts, and whose length bounds, what is given
    max_len: int  # tokens
    config: "ClassifierConfig"

    @property
    def name(self) -> str: ...
    @property
    def weight_bytes(self) -> int: ...
    def stats(self) -> "ClassifierStats": ...
    def encode(self, text: str) -> list[int]: ...
    def encode_all(self, texts: Sequence[str]) -> list[list[int]]: ...

    def label(self, prompts: Sequence[Prompt]) -> Labelled:
        """Raises as `Classifier.classify` does; then none is computed."""

    def is_sound(self, text: str) -> bool:
        """Whether every stage gives this text numbers."""

    def warm_up(self) -> None:
        """Make room for the largest batch, so that no later one has to."""


def cut(token_ids: Sequence[int], longest: int) -> tuple[int, ...]:
    """Of a long text the beginning, and the token that ends it."""
    return tuple(token_ids) if len(token_ids) <= longest else (*token_ids[: longest - 1], token_ids[-1])


def split_ns(total_ns: int, weights: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole nanoseconds that sum to the total, in proportion to the weights, of which one at least is above 0."""
    ends = [0]
    for weight in weights:
        ends.append(ends[-1] + int(weight))  # Python's whole numbers: the products are beyond 64 bits
    return np.diff([total_ns * end // max(ends[-1], 1) for end in ends]).astype(np.int64)

"""Labelled rows: prompts, the quality of each model's answer to them, and what a request to each model costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.hidden import Hidden
from farthing.router.metrics import Pair
from farthing.router.policy import checked_costs
from farthing.router.signals import SIGNAL_NAMES

__all__ = ["Answers", "Labelled"]


@dataclass(frozen=True)
class Answers:
    """Of one model to every prompt."""

    texts: tuple[str, ...]
    signals: NDArray[np.float64] | None = None  # in the order of SIGNAL_NAMES; nan where not known

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Answers":
        signals = None if self.signals is None else self.signals[np.asarray(rows, np.int64)]
        return Answers(tuple(self.texts[i] for i in rows), signals)


@dataclass(frozen=True)
class Labelled:
    models: tuple[str, ...]  # ordered by cost
    costs: tuple[float, ...]  # mean of a request, in dollars or any one unit
    prompts: tuple[str, ...]
    quality: NDArray[np.float64]  # [n, k], 0 to 1; right or wrong are 1 and 0
    answers: tuple[str, ...] | None = None  # of the first model: what a cascade checks; the dearest's are never read
    signals: NDArray[np.float64] | None = None  # of those answers, in the order of SIGNAL_NAMES; nan where not known
    later: Mapping[int, Answers] = field(default_factory=dict)  # of models between the first and the dearest, by number
    hidden: Hidden | None = None  # of the first model, where it is a local one

    def __post_init__(self) -> None:
        checked_costs(self.costs)
        shape = (len(self.prompts), len(self.models))
        if len(self.models) != len(self.costs) or len(set(self.models)) != len(self.models):
            raise InvalidRequest(f"{len(self.models)} models, {len(self.costs)} costs; one each, every name once")
        if self.quality.shape != shape or not np.isfinite(self.quality).all():
            raise InvalidRequest(
                f"qualities of shape {self.quality.shape}; {shape[0]} prompts by {shape[1]} models needed"
            )
        if self.quality.size and (self.quality.min() < 0 or self.quality.max() > 1):
            raise InvalidRequest("a quality is outside of 0 to 1")
        for answers in self.checked.values():
            self._check(answers)
        if self.hidden is not None and len(self.hidden.states) != len(self.prompts):
            raise InvalidRequest(f"hidden states of {len(self.hidden.states)} prompts; of all {shape[0]} are needed")
        if not all(0 < number < len(self.models) - 1 for number in self.later):
            raise InvalidRequest(f"answers of models {list(self.later)}; allowed: between the first and the dearest")

    def _check(self, answers: Answers) -> None:
        if len(answers.texts) != len(self.prompts):
            raise InvalidRequest(f"{len(answers.texts)} answers to {len(self.prompts)} prompts")
        signals = answers.signals
        if signals is not None and signals.shape != (len(self.prompts), len(SIGNAL_NAMES)):
            raise InvalidRequest(f"signals of shape {signals.shape}; {', '.join(SIGNAL_NAMES)} of each row needed")

    @property
    def checked(self) -> dict[int, Answers]:
        """By model, the answers that a cascade can check: none without those of the first."""
        return {} if self.answers is None else {0: Answers(self.answers, self.signals), **self.later}

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def pair(self) -> Pair:
        """The cheapest and the dearest."""
        return Pair(self.quality[:, 0], self.quality[:, -1])

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Labelled":
        answers = None if self.answers is None else tuple(self.answers[i] for i in rows)
        prompts = tuple(self.prompts[i] for i in rows)
        chosen = np.asarray(rows, np.int64)
        signals = None if self.signals is None else self.signals[chosen]
        later = {number: answers.take(rows) for number, answers in self.later.items()}
        hidden = None if self.hidden is None else self.hidden.take(chosen)
        return Labelled(self.models, self.costs, prompts, self.quality[chosen], answers, signals, later, hidden)

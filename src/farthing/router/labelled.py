"""Labelled rows: prompts, the quality of each model's answer to them, and what a request to each model costs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.metrics import Pair
from farthing.router.policy import checked_costs
from farthing.router.signals import SIGNAL_NAMES

__all__ = ["Labelled"]


@dataclass(frozen=True)
class Labelled:
    models: tuple[str, ...]  # ordered by cost
    costs: tuple[float, ...]  # mean of a request, in dollars or any one unit
    prompts: tuple[str, ...]
    quality: NDArray[np.float64]  # [n, k], 0 to 1; right or wrong are 1 and 0
    answers: tuple[str, ...] | None = None  # of the first model: what a cascade checks. No other model's text is read
    signals: NDArray[np.float64] | None = None  # of those answers, in the order of SIGNAL_NAMES; nan where not known

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
        if self.answers is not None and len(self.answers) != len(self.prompts):
            raise InvalidRequest(f"{len(self.answers)} answers to {len(self.prompts)} prompts")
        if self.signals is not None and self.signals.shape != (len(self.prompts), len(SIGNAL_NAMES)):
            raise InvalidRequest(f"signals of shape {self.signals.shape}; {', '.join(SIGNAL_NAMES)} of each row needed")

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
        return Labelled(self.models, self.costs, prompts, self.quality[chosen], answers, signals)

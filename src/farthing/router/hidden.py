"""What a local model makes of a prompt: its state behind the last layer, from which a draft's first token is chosen.

A cascade's draft computes it anyway, so after the draft it is free. Before the call it would cost the prompt's prefill,
far more than the 3 % of a small model's answer that a guess may cost: there it is not used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest

__all__ = ["Hidden", "HiddenSpace", "StatesOf", "learn_space"]

Matrix = NDArray[np.float64]
NUM_DIRECTIONS = 32
MIN_STATES = 20


@dataclass(frozen=True)
class Hidden:
    """Of each prompt. Raises InvalidRequest for what is no matrix."""

    model: str  # as it is served
    states: Matrix  # [n, width]; a row of nan where it is not known

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or np.isinf(self.states).any():
            raise InvalidRequest(f"hidden states of shape {self.states.shape}; a row of finite numbers each is needed")

    def take(self, rows: NDArray[np.int64]) -> "Hidden":
        return Hidden(self.model, self.states[rows])

    def and_unknown(self, num_rows: int) -> "Hidden":
        """The same, and so many prompts of which nothing is known."""
        return Hidden(self.model, np.vstack([self.states, np.full((num_rows, self.states.shape[1]), np.nan)]))


StatesOf = Callable[[Sequence[str]], Hidden]


@dataclass(frozen=True)
class HiddenSpace:
    """The directions in which a model's states of the training prompts differ most: what of them is looked at."""

    model: str
    center: Matrix  # [width]
    directions: Matrix  # [width, NUM_DIRECTIONS], of states less the center

    def project(self, states: Matrix) -> Matrix:
        """[n, NUM_DIRECTIONS]; nan where a state is not known, or is no state of this model's width."""
        if states.shape[1] != len(self.center):
            return np.full((len(states), self.directions.shape[1]), np.nan)
        return np.asarray((states - self.center) @ self.directions)


def learn_space(hidden: Hidden) -> HiddenSpace:
    """Principal components of the standardised columns: some columns of a transformer's states are a hundred times as
    large as others, and say no more. Raises InvalidRequest where too little is known."""
    known = hidden.states[~np.isnan(hidden.states).any(axis=1)]
    if len(known) < MIN_STATES:
        raise InvalidRequest(f"hidden states of {len(known)} prompts; at least {MIN_STATES} are needed")
    center, deviation = known.mean(axis=0), known.std(axis=0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
    standard = (known - center) * scale
    found = np.linalg.eigh(standard.T @ standard)[1][:, ::-1][:, :NUM_DIRECTIONS]  # [width, …], the largest first
    signs = np.where(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])] < 0, -1.0, 1.0)
    directions = scale[:, None] * found * signs
    return HiddenSpace(hidden.model, _as_in_the_file(center), _as_in_the_file(directions))


def _as_in_the_file(values: Matrix) -> Matrix:
    """Rounded, and row by row: sums in another order end on another bit. So the file changes no decision."""
    return np.asarray(np.ascontiguousarray(values, np.float32), np.float64)

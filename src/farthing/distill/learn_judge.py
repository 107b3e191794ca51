"""A version as it serves: a classifier, its router's threshold, what both give on texts and what that costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.router.calibrate import Goal
from farthing.router.labelled import Labelled
from farthing.router.origin import Origin, chosen_part, prompt_hashes
from farthing.router.signals import LEAST, SIGNAL_NAMES
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained

__all__ = ["Answers", "Costs", "Served", "Student", "Version", "judging", "recalibrated", "served", "teaching_router"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
TRAIN_PART = 0.4  # of the held-out rows; then of those that are left, what calibrates. The rest judges
CALIBRATE_PART = 0.5


@dataclass(frozen=True)
class Answers:
    """Of a classifier to n texts."""

    labels: tuple[str, ...]  # [n]
    logprobs: Floats  # [n], of those labels
    margins: Floats  # [n], to the second likeliest
    seconds: float  # of a text, in the mean

    @property
    def signals(self) -> Floats:
        """[n, signals], as the router sees them of an answer of one token."""
        found = np.full((len(self.labels), len(SIGNAL_NAMES)), np.nan)
        found[:, 0] = found[:, 1] = np.maximum(self.logprobs, LEAST)
        found[:, 2] = found[:, 3] = self.margins
        return found


class Student(Protocol):
    """A small model that names a label. size: its weights; of two alike the same text takes as long."""

    @property
    def size(self) -> int: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    def answer(self, texts: Sequence[str]) -> Answers: ...


@dataclass(frozen=True)
class Version:
    folder: Path
    student: Student
    router: Trained


@dataclass(frozen=True)
class Costs:
    """Of a request, in pico-dollars."""

    small: float
    large: float


@dataclass(frozen=True)
class Served:
    """What clients get of a version: the small model's label where it is kept, the large model's answer elsewhere."""

    answers: Answers
    is_kept: Bools  # [n]

    def right(self, references: Sequence[str]) -> Bools:
        """Whether each is what the large model would have answered."""
        same = np.array([a == b for a, b in zip(self.answers.labels, references, strict=True)], np.bool_)
        return same | ~self.is_kept

    def cost(self, costs: Costs) -> Floats:
        return costs.small + np.where(self.is_kept, 0.0, costs.large)


def served(version: Version, texts: Sequence[str]) -> Served:
    if not texts:
        return Served(Answers((), np.zeros(0), np.zeros(0), 0.0), np.zeros(0, np.bool_))
    answers = version.student.answer(texts)
    p_right = version.router.p_right(texts, answers.labels, None, answers.signals)
    return Served(answers, ~version.router.escalates(p_right))


def recalibrated(
    models: tuple[str, str], costs: Costs, texts: Sequence[str], references: Sequence[str], answers: Answers, goal: Goal
) -> Trained:
    """A router for a new version, from held-out rows: some train its check, others prove its threshold. Raises
    InvalidRequest where there are too few, or the small model is not the cheaper one."""
    is_right = np.array([a == b for a, b in zip(answers.labels, references, strict=True)], np.float64)
    quality = np.stack([is_right, np.ones_like(is_right)], axis=1)
    usd = (costs.small / 1e12, costs.large / 1e12)
    rows = Labelled(models, usd, tuple(texts), quality, answers.labels, answers.signals)
    trains, calibrates, _ = _parts(texts)
    teaching, proving = rows.take(np.flatnonzero(trains)), rows.take(np.flatnonzero(calibrates))
    made = calibrate(train(teaching), proving, goal, "cascade")
    return replace(made, origin=Origin(prompt_hashes(teaching.prompts), prompt_hashes(proving.prompts)))


def judging(texts: Sequence[str]) -> Bools:
    """Which held-out rows judge: those that no version's router was made from, whenever that was."""
    return _parts(texts)[2]


def teaching_router(texts: Sequence[str]) -> Bools:
    """Which held-out rows train the check of a router."""
    return _parts(texts)[0]


def _parts(texts: Sequence[str]) -> tuple[Bools, Bools, Bools]:
    trains = chosen_part(texts, TRAIN_PART, "train")
    calibrates = ~trains & chosen_part(texts, CALIBRATE_PART, "calibrate")
    return trains, calibrates, ~trains & ~calibrates

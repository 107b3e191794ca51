"""BANKING77 and CLINC150 as the benchmark uses them: rows to learn from, to choose thresholds on, and to judge.

BANKING77 has no validation split: 1,500 random training rows are held out for it. Of CLINC150's as many are used; its
out-of-scope rows belong to no intent and are left out.
"""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Intents", "Split", "load_intents", "tasks_folder"]

NUM_VALIDATION = 1_500
SEED = 0


@dataclass(frozen=True)
class Split:
    texts: tuple[str, ...]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Split":
        return Split(tuple(self.texts[i] for i in rows), self.labels[np.asarray(rows, np.int64)])


@dataclass(frozen=True)
class Intents:
    name: str
    names: tuple[str, ...]  # of the intents
    train: Split
    validation: Split
    test: Split

    def limited(self, num: int | None) -> "Intents":
        """Random `num` rows of validation and of test each."""
        if num is None:
            return self
        rng = np.random.default_rng(SEED)
        parts = [part.take(rng.permutation(len(part))[:num]) for part in (self.validation, self.test)]
        return Intents(self.name, self.names, self.train, *parts)


def tasks_folder() -> Path | None:
    given = os.environ.get("FARTHING_DATA")
    folder = Path(given) / "tasks" if given else None
    return folder if folder is not None and folder.is_dir() else None


def load_intents(folder: Path, name: str) -> Intents:
    if name == "banking77":
        learn, test = (_csv(folder / name / f"{part}.csv") for part in ("train", "test"))
        order = np.random.default_rng(SEED).permutation(len(learn))
        validation = [learn[i] for i in order[:NUM_VALIDATION]]
        learn = [learn[i] for i in order[NUM_VALIDATION:]]
    else:
        whole = json.loads((folder / name / "data_full.json").read_text(encoding="utf-8"))
        learn, validation, test = ([(text, label) for text, label in whole[part]] for part in ("train", "val", "test"))
        order = np.random.default_rng(SEED).permutation(len(validation))
        validation = [validation[i] for i in order[:NUM_VALIDATION]]
    names = tuple(sorted({label for _, label in learn}))
    splits = (_split(rows, names) for rows in (learn, validation, test))
    return Intents(name, names, *splits)


def _csv(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return [(row["text"].strip(), row["category"]) for row in csv.DictReader(lines)]


def _split(rows: Sequence[tuple[str, str]], names: tuple[str, ...]) -> Split:
    place = {name: index for index, name in enumerate(names)}
    return Split(tuple(text for text, _ in rows), np.array([place[label] for _, label in rows], np.int64))

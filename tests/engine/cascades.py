"""A cascade of a linear model and two golden classifiers with random weights and tokenizers of their own."""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from farthing.distill.linear import train_linear
from farthing.models.cascade_file import CascadeFile, Point, PointName, StageFile
from farthing.models.hub import CASCADE_FILE
from farthing.models.linear import Linear
from farthing.models.linear_file import write_linear
from tests.models.small import GOLDEN

__all__ = ["KNOWN", "LABELS", "MAX_TOKENS", "POINTS", "cascade_file", "linear_of", "write_folder"]

LABELS = ("card arrival", "lost_card", "über 30 %", "🙂", "exchange rate")
KNOWN = ("When will my card arrive?", "I lost it", "more than 30 % of it", "well done, thank you", "dollars for euros")
MAX_TOKENS = 24
# The linear model is surer of what it knows than 0.5, the student of hardly anything.
POINTS: Mapping[PointName, Point] = {
    "best": Point(((), (0.3,), (0.15, 0.5)), (0.5, 0.3)),
    "cheapest": Point(((), (0.3,)), (0.3,)),
}


@lru_cache(maxsize=1)
def linear_of() -> Linear:
    texts = [text + end for text in KNOWN for end in ("", " please", " now", "!")]
    return train_linear(texts, np.repeat(np.arange(len(KNOWN)), 4), len(KNOWN))


def cascade_file(points: Mapping[PointName, Point] = POINTS, labels: Sequence[str] = LABELS) -> CascadeFile:
    stages = (StageFile("linear", "linear.npz"), StageFile("student", "student"), StageFile("teacher", "teacher"))
    chosen = {name: {"accuracy": 0.9, "seconds_per_request": 1e-4} for name in points}
    return CascadeFile(tuple(labels), MAX_TOKENS, stages, points, chosen)


def write_folder(folder: Path, labels: Sequence[str] = LABELS, points: Mapping[PointName, Point] = POINTS) -> Path:
    folder.mkdir(parents=True)
    for stage, family in (("student", "llama"), ("teacher", "qwen2")):
        shutil.copytree(GOLDEN / f"classifier_{family}", folder / stage)
        config = json.loads((folder / stage / "config.json").read_text())
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        (folder / stage / "config.json").write_text(json.dumps(config | names))
    write_linear(folder / "linear.npz", linear_of())
    (folder / CASCADE_FILE).write_text(cascade_file(points, labels).json(), encoding="utf-8")
    return folder

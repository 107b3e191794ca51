"""cascade.json: which models stand one after the other in a folder, and how sure each must be to answer.

    {"version": 1, "labels": [...], "max_tokens": 256,
     "stages": [{"name": "linear", "path": "linear.npz"}, {"name": "student", "path": "student-q8_0.gguf"}],
     "points": {"best": {"weights": [[], [0.3]], "thresholds": [0.93], "accuracy": 0.94, "seconds_per_request": 1e-4},
                "cheapest": {"weights": [[]], "thresholds": [], ...}}}

A point uses the first of the stages, as many as it has weights for. `engine.cascade_rule` says what its numbers mean.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.fields import Fields
from farthing.models.hub import CASCADE_FILE
from farthing.models.labels import checked_labels
from farthing.models.opening import read_json

__all__ = ["CascadeFile", "Point", "PointName", "StageFile", "read_cascade"]

VERSION = 1
PointName = Literal["best", "cheapest"]
_ADVICE = "write the folder anew with farthing distill"
_MOST_STAGES = 8
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON may hold half of a surrogate pair, which is no character


@dataclass(frozen=True)
class Point:
    """weights: of each stage, how much the log-probabilities of those before it count, beside 1 for its own.
    thresholds: of each stage but the last, the probability from which on it answers; None where it never does."""

    weights: tuple[tuple[float, ...], ...]
    thresholds: tuple[float | None, ...]

    @property
    def num_stages(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class StageFile:
    name: str
    path: str  # within the folder


@dataclass(frozen=True)
class CascadeFile:
    """max_tokens: of a longer text a stage that reads tokens gets the beginning and the last one. chosen: of each
    point, what it had on the rows that chose it."""

    labels: tuple[str, ...]
    max_tokens: int
    stages: tuple[StageFile, ...]
    points: Mapping[PointName, Point]
    chosen: Mapping[PointName, Mapping[str, float]]

    def point(self, name: str) -> Point:
        """Raises InvalidRequest where there is no such point."""
        point = next((point for known, point in self.points.items() if known == name), None)
        if point is None:
            raise InvalidRequest(f"point is {name!r}; allowed: {', '.join(get_args(PointName))}")
        return point

    def json(self) -> str:
        """As the file has it."""
        document = {
            "version": VERSION,
            "labels": self.labels,
            "max_tokens": self.max_tokens,
            "stages": [{"name": stage.name, "path": stage.path} for stage in self.stages],
            "points": {
                name: {"weights": point.weights, "thresholds": point.thresholds, **self.chosen[name]}
                for name, point in self.points.items()
            },
        }
        return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def read_cascade(folder: Path) -> CascadeFile:
    """Raises ModelNotFound, CorruptModel for what cannot be true, InvalidRequest for another version of the file."""
    place = folder / CASCADE_FILE
    fields = Fields(read_json(place), str(place))
    version = fields.integer("version")
    if version != VERSION:
        raise InvalidRequest(f"{place} has version {version}; this program reads {VERSION}: {_ADVICE}")
    labels = fields.raw.get("labels")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise _wrong(place, "labels", labels, "a list of texts")
    max_tokens = fields.integer("max_tokens")
    if max_tokens < 2:
        raise _wrong(place, "max_tokens", max_tokens, "2 or more")
    stages = _stages(place, fields.raw.get("stages"))
    points, chosen = _points(place, fields.raw.get("points"), len(stages))
    return CascadeFile(checked_labels(str(place), tuple(labels)), max_tokens, stages, points, chosen)


def _stages(place: Path, found: Any) -> tuple[StageFile, ...]:
    if not isinstance(found, list) or not 2 <= len(found) <= _MOST_STAGES:
        raise _wrong(place, "stages", found, f"a list of 2 to {_MOST_STAGES}")
    stages = tuple(_stage(place, entry) for entry in found)
    if [stage.path.endswith(".npz") for stage in stages] != [True] + [False] * (len(stages) - 1):
        raise _wrong(place, "stages", [stage.path for stage in stages], "a linear model (.npz), then others")
    if len({stage.name for stage in stages}) != len(stages):
        raise _wrong(place, "stages", [stage.name for stage in stages], "different names")
    return stages


def _stage(place: Path, found: Any) -> StageFile:
    if not isinstance(found, dict):
        raise _wrong(place, "stages", found, "objects with name and path")
    fields = Fields(found, f"{place}: stages")
    name, path = fields.text("name"), fields.text("path")
    parts = Path(path).parts
    is_text = not _HALF_PAIR.search(name + path)  # they go into paths, answers and metrics
    if not name or not parts or Path(path).is_absolute() or ".." in parts or "\0" in path or not is_text:
        raise _wrong(place, "stages", found, "a name, and a path within the folder")
    return StageFile(name, path)


def _points(
    place: Path, found: Any, num_stages: int
) -> tuple[dict[PointName, Point], dict[PointName, Mapping[str, float]]]:
    names: tuple[PointName, ...] = get_args(PointName)
    if not isinstance(found, dict) or found.keys() != {*names}:
        raise _wrong(place, "points", found, f"an object with {', '.join(names)}")
    points: dict[PointName, Point] = {}
    chosen: dict[PointName, Mapping[str, float]] = {}
    for name in names:
        points[name] = _point(place, name, found[name], num_stages)
        fields = Fields(found[name], f"{place}: points.{name}")
        chosen[name] = {key: fields.number(key) for key in ("accuracy", "seconds_per_request")}
    return points, chosen


def _point(place: Path, name: str, found: Any, num_stages: int) -> Point:
    weights = found.get("weights") if isinstance(found, dict) else None
    thresholds = found.get("thresholds") if isinstance(found, dict) else None
    if not isinstance(weights, list) or not 1 <= len(weights) <= num_stages:
        raise _wrong(place, f"points.{name}", found, f"weights of 1 to {num_stages} stages")
    if not all(isinstance(row, list) and len(row) == at and all(map(_is_share, row)) for at, row in enumerate(weights)):
        raise _wrong(place, f"points.{name}.weights", weights, "a number from 0 to 1 for each earlier stage")
    if not isinstance(thresholds, list) or not all(value is None or _is_share(value) for value in thresholds):
        raise _wrong(place, f"points.{name}.thresholds", thresholds, "numbers from 0 to 1, and null")
    if len(thresholds) != len(weights) - 1:
        raise _wrong(place, f"points.{name}.thresholds", thresholds, "one for each stage but the last")
    return Point(tuple(tuple(map(float, row)) for row in weights), tuple(_number(value) for value in thresholds))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _wrong(place: Path, key: str, found: Sequence[Any] | Any, allowed: str) -> CorruptModel:
    return CorruptModel(f"{place}: {key} is {found!r:.80}; allowed: {allowed}; {_ADVICE}")

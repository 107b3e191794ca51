"""OUT-cascade: the stages that were measured, in a folder that can be served. It is the same in every run of a job."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farthing.distill.job import DistillJob
from farthing.distill.measure import Chosen
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.cascade_file import CascadeFile, PointName, StageFile
from farthing.models.hub import CASCADE_FILE
from farthing.models.linear import Linear
from farthing.models.linear_file import write_linear
from farthing.models.new_folder import new_folder
from farthing.models.opening import read_json

__all__ = ["MeasuredCascade", "cascade_file", "kept_seconds", "write_cascade"]

STAGES = ("linear", "student", "teacher")


@dataclass(frozen=True)
class MeasuredCascade:
    """What was measured: the linear model, both others' files in few bits, and where the stages work together."""

    linear: Linear
    student: Path
    teacher: Path
    points: Mapping[PointName, Chosen]


def cascade_file(job: DistillJob, labels: tuple[str, ...], cascade: MeasuredCascade) -> CascadeFile:
    """What cascade.json says; the teacher is among the stages where a point asks it."""
    models = (cascade.student, cascade.teacher)
    paths = ("linear.npz", *(f"{n}-{job.format}{m.suffix}" for n, m in zip(STAGES[1:], models, strict=True)))
    num_stages = max(2, *(chosen.point.num_stages for chosen in cascade.points.values()))
    had = {
        name: {"accuracy": chosen.accuracy, "seconds_per_request": chosen.seconds}
        for name, chosen in cascade.points.items()
    }
    return CascadeFile(
        labels,
        job.student_recipe.max_length,
        tuple(StageFile(name, path) for name, path in zip(STAGES, paths, strict=True))[:num_stages],
        {name: chosen.point for name, chosen in cascade.points.items()},
        had,
    )


def write_cascade(job: DistillJob, labels: tuple[str, ...], cascade: MeasuredCascade) -> Path:
    """Whole or not at all, in the place of what an earlier run left. Raises InvalidRequest where the folder cannot be
    written."""
    file = cascade_file(job, labels, cascade)
    try:
        with new_folder(job.cascade, is_replaced=True) as part:
            write_linear(part / file.stages[0].path, cascade.linear)
            for stage, model in zip(file.stages[1:], (cascade.student, cascade.teacher), strict=False):
                shutil.copyfile(model, part / stage.path)
            (part / CASCADE_FILE).write_text(file.json(), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{job.cascade}: cannot be written ({error.strerror}); make room, and run again") from None
    return job.cascade


def kept_seconds(job: DistillJob, seconds: Mapping[str, float]) -> dict[str, float]:
    """By stage, what a request costs, as the first run of the job found it: thresholds are chosen by it, and would not
    be the same in every run otherwise. Other threads or another format are another cost. Raises CorruptModel."""
    if not (job.work / "job.json").is_file():  # ready folders are measured, nothing is gone on from
        return dict(seconds)
    path = job.work / "cascade-seconds.json"
    key = f"{job.format}, {job.num_threads} threads"
    notes = read_json(path) if path.is_file() else {}
    found = notes.setdefault(key, dict(seconds))
    is_sound = isinstance(found, dict) and found.keys() == seconds.keys()
    if not is_sound or not all(type(value) is float and 0 < value < np.inf for value in found.values()):
        raise CorruptModel(f"{path} is damaged; remove it to time the stages anew")
    path.with_suffix(".part").write_text(json.dumps(notes) + "\n", encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)
    kept: dict[str, float] = found
    return kept

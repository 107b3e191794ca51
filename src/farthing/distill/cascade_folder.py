"""OUT-cascade: the stages that were measured, in a folder that can be served. It is the same in every run of a job."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from farthing.distill.job import DistillJob
from farthing.distill.measure import Chosen
from farthing.distill.stages import Made, file_suffix
from farthing.errors import CorruptModel
from farthing.models.cascade_file import CascadeFile, PointName, StageFile
from farthing.models.hub import CASCADE_FILE
from farthing.models.linear import Linear
from farthing.models.linear_file import write_linear
from farthing.models.new_folder import new_folder
from farthing.models.opening import read_json
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model

__all__ = ["STAGES", "kept_seconds", "write_cascade"]

STAGES = ("linear", "student", "teacher")


def write_cascade(job: DistillJob, made: Made, linear: Linear, points: Mapping[PointName, Chosen]) -> Path:
    """Whole or not at all, in the place of what an earlier run left. The teacher is in it where a point asks it, in the
    very numbers that were measured. Raises InvalidRequest where the folder cannot be written."""
    suffix = file_suffix(job.format)
    paths = ("linear.npz", f"student-{job.format}{suffix}", f"teacher-{job.format}{suffix}")
    num_stages = max(2, *(chosen.point.num_stages for chosen in points.values()))
    stages = tuple(StageFile(name, path) for name, path in zip(STAGES, paths, strict=True))[:num_stages]
    file = CascadeFile(
        made.labels,
        job.student_recipe.max_length,
        stages,
        {name: chosen.point for name, chosen in points.items()},
        {name: {"accuracy": chosen.accuracy, "seconds_per_request": chosen.seconds} for name, chosen in points.items()},
    )
    with new_folder(job.cascade, is_replaced=True) as part:
        write_linear(part / paths[0], linear)
        shutil.copyfile(made.quantized, part / paths[1])
        if num_stages > 2:
            quantize_model(made.teacher, part / paths[2], QuantizeJob(job.format, method="rtn"))
        (part / CASCADE_FILE).write_text(file.json(), encoding="utf-8")
    return job.cascade


def kept_seconds(job: DistillJob, seconds: Mapping[str, float]) -> dict[str, float]:
    """By stage, what a request costs, as the first run of the job found it: thresholds are chosen by it, and would not
    be the same in every run otherwise. Other threads or another format are another cost. Raises CorruptModel."""
    if not job.work.is_dir():  # ready folders are measured, nothing is gone on from
        return dict(seconds)
    path = job.work / "cascade-seconds.json"
    key = f"{job.format}, {job.num_threads} threads"
    notes = read_json(path) if path.is_file() else {}
    found = notes.setdefault(key, dict(seconds))
    if (
        not isinstance(found, dict)
        or found.keys() != seconds.keys()
        or not all(type(value) is float and value > 0 for value in found.values())
    ):
        raise CorruptModel(f"{path} is damaged; remove it to time the stages anew")
    path.with_suffix(".part").write_text(json.dumps(notes) + "\n", encoding="utf-8")
    os.replace(path.with_suffix(".part"), path)
    return found

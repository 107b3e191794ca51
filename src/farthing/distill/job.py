"""What is asked of a distillation, and the folder that remembers it: a second run goes on, another one is refused."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from farthing.distill.recipe import STUDENT, TEACHER, Recipe
from farthing.distill.student import StudentSpec
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models.hub import is_cascade
from farthing.models.opening import read_json
from farthing.quant import quantizable

__all__ = ["DistillJob", "claim"]


@dataclass(frozen=True)
class DistillJob:
    """output: the student's folder; `<output>.work` beside it holds what a stopped run goes on from. num_variants: how
    many texts are made up for the teacher to label, together with the linear model, whose word counts linear_share;
    None: twice as many as there are rows. num_prompted: held-out rows that the untrained teacher is asked, or 0."""

    teacher: str
    student: StudentSpec
    output: Path
    teacher_recipe: Recipe = TEACHER
    student_recipe: Recipe = STUDENT
    num_variants: int | None = None
    linear_share: float = 0.5
    format: str = "q8_0"
    num_threads: int = 2
    num_prompted: int = field(default=64, compare=False)

    def __post_init__(self) -> None:
        if self.format not in quantizable():
            raise InvalidRequest(f"--format is {self.format!r}; allowed: {', '.join(quantizable())}")
        if (self.num_variants or 0) < 0 or self.num_prompted < 0:
            raise InvalidRequest("--variants and --prompted must be 0 or more")
        if not 0 <= self.linear_share < 1:
            raise InvalidRequest(f"--linear-share is {self.linear_share}; allowed: 0 to below 1")
        if self.output.exists() and not (self.output / "training.json").is_file():
            raise InvalidRequest(f"{self.output} exists and is no student; give another -o, or remove it first")
        if self.cascade.exists() and not is_cascade(self.cascade):
            raise InvalidRequest(f"{self.cascade} exists and is no cascade; give another -o, or remove it first")
        if not self.output.parent.is_dir():
            raise InvalidRequest(f"{self.output}: the folder {self.output.parent} does not exist; create it first")

    @property
    def cascade(self) -> Path:
        """Of a task of labels: the folder with all stages."""
        return self.output.with_name(self.output.name + "-cascade")

    @property
    def work(self) -> Path:
        return self.output.with_name(self.output.name + ".work")


def claim(job: DistillJob, teacher: str, data: str) -> None:
    """Make the work folder, or find it to be of this very job. teacher: its identity; data: its digest.

    Raises InvalidRequest where it is another job's, CorruptModel where its notes are damaged.
    """
    asked = {
        "teacher": teacher,
        "data": data,
        "student": asdict(job.student),
        "teacher_recipe": asdict(job.teacher_recipe),
        "student_recipe": asdict(job.student_recipe),
        "variants": job.num_variants,
        "linear_share": job.linear_share,
    }
    asked = json.loads(json.dumps(asked))
    path = job.work / "job.json"
    if path.is_file():
        _check(job, path, read_json(path), asked)
        return
    if job.output.exists():
        raise InvalidRequest(f"{job.output} exists, without {job.work} to go on from; give another -o, or remove it")
    try:
        job.work.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise InvalidRequest(f"{job.work}: cannot be written ({error.strerror})") from None


def _check(job: DistillJob, path: Path, found: Mapping[str, object], asked: Mapping[str, object]) -> None:
    if found.keys() != asked.keys():
        raise CorruptModel(f"{path} is not what a distillation writes; remove {job.work} to begin anew")
    different = [_different(name, found[name], asked[name]) for name in asked if found[name] != asked[name]]
    if different:
        raise InvalidRequest(
            f"{job.work} is of another run: its {', '.join(different).replace('_', ' ')} differ; give the same options "
            f"to go on, another -o, or remove {job.work} and {job.output}"
        )


def _different(name: str, found: object, asked: object) -> str:
    """With the settings within it that are not the same."""
    if not isinstance(found, dict) or not isinstance(asked, dict):
        return name
    return f"{name} ({', '.join(key for key in asked if key not in found or found[key] != asked[key])})"

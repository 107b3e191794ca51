"""What distillations of all tasks share: what is told, what is made, the student's beginning and its few bits."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from farthing.distill.job import DistillJob
from farthing.distill.layers import choose_layers
from farthing.distill.progress import Progress, Trained
from farthing.distill.student import make_student
from farthing.kernels.formats import format_of
from farthing.models import Model
from farthing.models.vocabulary_trim import read_tokenizer, task_token_ids
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model

__all__ = ["Made", "Telling", "quantized_student", "start_of", "steps_of"]


@dataclass(frozen=True)
class Telling:
    """Where progress goes: a stage that begins, how far it is, and each step of a training."""

    stage: Callable[[str], None] = lambda _: None
    tick: Callable[[str, int, int], None] = lambda _stage, _done, _total: None
    step: Callable[[str, Progress], None] = lambda _stage, _progress: None


@dataclass(frozen=True)
class Made:
    """What lies there when all is trained. teacher_trained: None where the given teacher had its labels already."""

    teacher: Path
    student: Path
    quantized: Path
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    trained: Trained
    teacher_trained: Trained | None


def steps_of(telling: Telling, stage: str) -> Callable[[Progress], None]:
    return lambda progress: telling.step(stage, progress)


def start_of(
    job: DistillJob, folder: Path, teacher: Model, token_ids: Sequence[Sequence[int]], telling: Telling
) -> tuple[Path, tuple[int, ...]]:
    """The student before it learns, and which layers of the teacher it has. token_ids: of all texts that are taught."""
    stage, start, notes = "choosing layers", job.work / "start", job.work / "layers.json"
    spec = job.student
    if notes.is_file():
        layers = tuple(json.loads(notes.read_text(encoding="utf-8")))
    elif isinstance(spec.layers, tuple):
        layers = spec.layers
    else:
        telling.stage(stage)
        total = teacher.config.num_layers
        some = token_ids[:: max(1, len(token_ids) // 128)]
        layers = choose_layers(teacher, some, spec.layers, lambda left: telling.tick(stage, total - left, total))
    if not notes.is_file():
        notes.with_suffix(".part").write_text(json.dumps(layers), encoding="utf-8")
        os.replace(notes.with_suffix(".part"), notes)
    if not start.exists():
        kept = None
        if spec.vocab != "all":
            seen = {id for ids in token_ids for id in ids}
            size = spec.vocab if isinstance(spec.vocab, int) else None
            kept = task_token_ids(read_tokenizer(folder), seen, size)
        make_student(folder, start, layers, kept)
    return start, layers


def quantized_student(job: DistillJob, telling: Telling) -> Path:
    """The student in few bits, beside its folder: a GGUF where that has the format."""
    suffix = ".gguf" if format_of(job.format).ggml_type is not None else ".safetensors"
    path = job.output.with_name(f"{job.output.name}-{job.format}{suffix}")
    telling.stage("quantizing")
    quantize_model(job.output, path, QuantizeJob(job.format, method="search"), is_overwrite=True)
    return path

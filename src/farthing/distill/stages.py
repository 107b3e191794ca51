"""What distillations of all tasks share: what is told, what is made, the student's beginning and its few bits."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from farthing.distill.job import DistillJob
from farthing.distill.layers import choose_layers
from farthing.distill.progress import Progress, Trained
from farthing.distill.student import make_student
from farthing.errors import CorruptModel
from farthing.kernels.formats import format_of
from farthing.models import Model
from farthing.models.vocabulary_trim import read_tokenizer, task_token_ids
from farthing.tuning.job import QuantizeJob
from farthing.tuning.run import quantize_model

__all__ = ["Made", "Telling", "file_suffix", "quantized_student", "quantized_teacher", "start_of", "steps_of"]


@dataclass(frozen=True)
class Telling:
    """Where progress goes: a stage that begins, how far it is, each step of a training, and rows that do not fit."""

    stage: Callable[[str], None] = lambda _: None
    tick: Callable[[str, int, int], None] = lambda _stage, _done, _total: None
    step: Callable[[str, Progress], None] = lambda _stage, _progress: None
    left_out: Callable[[str, int], None] = lambda _why, _count: None


@dataclass(frozen=True)
class Made:
    """What lies there when all is trained. teacher_trained: None where the given teacher had its labels already.
    num_variants: made-up texts among what was taught. left_out: rows that models cannot read, and why."""

    teacher: Path
    student: Path
    quantized: Path
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    trained: Trained
    teacher_trained: Trained | None
    num_variants: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)


def steps_of(telling: Telling, stage: str) -> Callable[[Progress], None]:
    return lambda progress: telling.step(stage, progress)


def start_of(
    job: DistillJob, folder: Path, teacher: Model, token_ids: Sequence[Sequence[int]], telling: Telling
) -> tuple[Path, tuple[int, ...]]:
    """The student before it learns, and which layers of the teacher it has. token_ids: of all texts that are taught.
    Raises CorruptModel for damaged notes."""
    stage, start, notes = "choosing layers", job.work / "start", job.work / "layers.json"
    spec = job.student
    if notes.is_file():
        layers = _noted(notes)
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


def _noted(notes: Path) -> tuple[int, ...]:
    try:
        found = json.loads(notes.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(type(layer) is int for layer in found):
        raise CorruptModel(f"{notes} is damaged; remove it to choose the layers anew")
    return tuple(found)


def quantized_teacher(job: DistillJob, teacher: Path) -> Path:
    """The tuned teacher in the student's few bits: what is measured, and served as the last stage of a cascade. Written
    in every run: it takes seconds, and who measures ready folders may have another teacher than the last time."""
    path = job.work / f"teacher-{job.format}{file_suffix(job.format)}"
    job.work.mkdir(exist_ok=True)
    quantize_model(teacher, path, QuantizeJob(job.format, method="rtn"), is_overwrite=True)
    return path


def file_suffix(format: str) -> str:
    """Of a model's file in this format: a GGUF where that has it."""
    return ".gguf" if format_of(format).ggml_type is not None else ".safetensors"


def quantized_student(job: DistillJob, telling: Telling) -> Path:
    """The student in few bits, beside its folder: a GGUF where that has the format."""
    path = job.output.with_name(f"{job.output.name}-{job.format}{file_suffix(job.format)}")
    telling.stage("quantizing")
    quantize_model(job.output, path, QuantizeJob(job.format, method="search"), is_overwrite=True)
    return path

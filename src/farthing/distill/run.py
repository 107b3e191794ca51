"""The whole of `farthing distill` for a task of labels: tune the teacher, collect what it says, make the student, train
it, quantize it, measure it. Each stage leaves something whole behind, from which a stopped run goes on."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.distill.augment import variants
from farthing.distill.data import Data, Example
from farthing.distill.folder import write_folder
from farthing.distill.job import DistillJob, claim
from farthing.distill.linear import train_linear
from farthing.distill.progress import Trained
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, with_second_teacher
from farthing.distill.stages import Made, Telling, quantized_student, start_of, steps_of
from farthing.distill.teacher import TeacherSettings, collect
from farthing.distill.torch_teacher import taught
from farthing.distill.torch_train import train
from farthing.engine.labelling import cut
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models import Model, load_model

__all__ = ["make_labels_student"]


def make_labels_student(job: DistillJob, data: Data, telling: Telling) -> Made:
    """Raises InvalidRequest (no torch; a job that is not the work folder's; data that the teacher does not fit),
    ModelError for a teacher that cannot be opened, CorruptModel for a damaged work folder."""
    assert data.labels is not None
    given = load_model(job.teacher)
    claim(job, given.identity(), data.digest)
    teacher_folder, teacher_trained = _teacher(job, given, data, telling)
    teacher = load_model(teacher_folder)
    labels = teacher.labels
    assert labels is not None
    samples = _taught(job, teacher, data, labels, telling)
    start, layers = _start(job, teacher_folder, teacher, data, telling)
    trained = _train(job, load_model(start), start, samples, data, labels, telling)
    few_bits, num_variants = quantized_student(job, telling), len(samples) - len(data.train)
    return Made(teacher_folder, job.output, few_bits, labels, layers, trained, teacher_trained, num_variants)


def _teacher(job: DistillJob, given: Model, data: Data, telling: Telling) -> tuple[Path, Trained | None]:
    """A Hugging Face folder with a head for the task's labels; trained, where the given model has none."""
    assert data.labels is not None
    if given.labels is not None:
        if unknown := sorted({*data.labels} - {*given.labels}):
            raise InvalidRequest(f"{given.name} does not know the label {unknown[0]!r} of the data; tune it anew")
        if given.path.is_dir():
            return given.path, None
        if not (job.work / "teacher").exists():
            write_folder(given, job.work / "teacher", dtype="float32")
        return job.work / "teacher", None
    start = job.work / "teacher-start"
    telling.stage("tuning the teacher")
    if not start.exists():
        write_folder(given, start, dtype="float32", labels=data.labels, seed=job.teacher_recipe.seed)
    model = load_model(start)
    rows, chosen_on = (_encoded(model, part, data.labels, job.teacher_recipe) for part in (data.train, data.validation))
    told = steps_of(telling, "tuning the teacher")
    work = job.work / "teacher-training"
    done = train(start, job.work / "teacher", rows, chosen_on, job.teacher_recipe, work=work, on_progress=told)
    return job.work / "teacher", done


def _encoded(model: Model, rows: Sequence[Example], labels: Sequence[str], recipe: Recipe) -> list[Sample]:
    place = {label: number for number, label in enumerate(labels)}
    ids = _ids(model, [row.text for row in rows], recipe)
    return [Sample(found, place[row.answer]) for found, row in zip(ids, rows, strict=True)]


def _ids(model: Model, texts: Sequence[str], recipe: Recipe) -> list[tuple[int, ...]]:
    """With what the tokenizer puts around a text; of a long one the beginning, and the end token."""
    longest = recipe.longest(model.config.max_position_embeddings)
    return [cut(ids, longest) for ids in model.tokenizer.encode_alone(texts)]


def _texts(job: DistillJob, data: Data) -> list[str]:
    """What is taught: the rows' texts, and made-up ones."""
    texts = [row.text for row in data.train]
    num = 2 * len(texts) if job.num_variants is None else job.num_variants
    return texts + variants(texts, num, job.student_recipe.seed)


def _taught(
    job: DistillJob, teacher: Model, data: Data, labels: Sequence[str], telling: Telling
) -> list[tuple[Sample, str]]:
    """Every text that is taught, with what the teacher says of it."""
    stage = "asking the teacher"
    telling.stage(stage)
    texts = _texts(job, data)
    place = {label: number for number, label in enumerate(labels)}
    known = [place[row.answer] for row in data.train]
    ids = _ids(teacher, texts, job.student_recipe)
    samples = [Sample(found, known[i] if i < len(known) else None) for i, found in enumerate(ids)]
    settings = TeacherSettings(num_threads=job.num_threads)
    path = job.work / "teacher.targets"

    def tick(done: int) -> None:
        telling.tick(stage, done, len(samples))

    samples = collect(teacher, samples, path, settings, on_progress=tick)
    if job.linear_share and len(samples) > len(known):
        samples[len(known) :] = _with_linear(job, samples[len(known) :], texts, known, len(labels))
    if job.student_recipe.hidden_weight:
        samples = _with_hidden(job, teacher, samples, tick)
    return list(zip(samples, texts, strict=True))


def _with_linear(
    job: DistillJob, made_up: Sequence[Sample], texts: Sequence[str], known: Sequence[int], num_labels: int
) -> list[Sample]:
    """Made-up texts with what the teacher and the linear model say together."""
    linear = train_linear(texts[: len(known)], np.array(known, np.int64), num_labels, job.student_recipe.seed)
    return with_second_teacher(made_up, linear.probabilities(texts[len(known) :]), job.linear_share)


def _with_hidden(job: DistillJob, teacher: Model, samples: list[Sample], tick: Callable[[int], None]) -> list[Sample]:
    """With the teacher's last hidden states, kept in a file too: the same bits in every run of the job."""
    path = job.work / "teacher-hidden.npy"
    if path.is_file():
        states = _kept(path)
    else:
        found = taught(teacher.path, samples, job.student_recipe, on_step=tick)
        states = np.stack([_known(sample.hidden) for sample in found])
        with path.with_suffix(".part").open("wb") as file:
            np.save(file, states)
        os.replace(path.with_suffix(".part"), path)
    if states.shape != (len(samples), teacher.config.hidden_size):
        raise InvalidRequest(f"{path} is of other texts or another teacher; remove it")
    return [replace(sample, hidden=state) for sample, state in zip(samples, states, strict=True)]


def _kept(path: Path) -> NDArray[np.float32]:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError):
        found = None
    if not isinstance(found, np.ndarray) or found.dtype != np.float32:
        raise CorruptModel(f"{path} is damaged; remove it to ask the teacher again")
    return found


def _known(state: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert state is not None
    return state


def _start(job: DistillJob, folder: Path, teacher: Model, data: Data, telling: Telling) -> tuple[Path, tuple[int, ...]]:
    return start_of(job, folder, teacher, _ids(teacher, _texts(job, data), job.student_recipe), telling)


def _train(
    job: DistillJob,
    model: Model,
    start: Path,
    samples: Sequence[tuple[Sample, str]],
    data: Data,
    labels: Sequence[str],
    telling: Telling,
) -> Trained:
    """The student reads the texts with its own tokenizer."""
    stage, recipe = "training the student", job.student_recipe
    telling.stage(stage)
    ids = _ids(model, [text for _, text in samples], recipe)
    rows = [replace(sample, token_ids=found) for (sample, _), found in zip(samples, ids, strict=True)]
    held_out = _encoded(model, data.validation, labels, recipe)
    work = job.work / "training"
    return train(start, job.output, rows, held_out, recipe, work=work, on_progress=steps_of(telling, stage))

"""`farthing distill` where answers are texts: the teacher's distribution at each token of them is what is taught."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.distill.data import Data, Example
from farthing.distill.folder import write_folder
from farthing.distill.job import DistillJob, claim
from farthing.distill.progress import Trained
from farthing.distill.recipe import Recipe
from farthing.distill.samples import LEAST_LOG, Sample, SparseTargets
from farthing.distill.stages import Made, Telling, quantized_student, start_of, steps_of
from farthing.distill.teacher import TeacherSettings, collect
from farthing.distill.torch_train import train
from farthing.errors import InvalidRequest
from farthing.models import Model, load_model
from farthing.models.tokenizer import Tokenizer

__all__ = ["in_own_ids", "make_text_student", "text_samples"]


def make_text_student(job: DistillJob, data: Data, telling: Telling) -> Made:
    """Raises as `run.make_labels_student` does."""
    given = load_model(job.teacher)
    if given.labels is not None:
        raise InvalidRequest(f"{given.name} is a classifier, and the answers are texts; give a model that writes, or "
                             "--task labels")  # fmt: skip
    claim(job, given.identity(), data.digest)
    recipe = replace(job.student_recipe, frozen_embeddings=False)
    folder, teacher_trained = _teacher(job, given, data, telling)
    teacher = load_model(folder)
    stage = "asking the teacher"
    telling.stage(stage)
    samples = text_samples(teacher, data.train, recipe)
    too_long = len(data.train) - len(samples)
    settings = TeacherSettings(num_threads=job.num_threads)

    def tick(done: int) -> None:
        telling.tick(stage, done, len(samples))

    samples = collect(teacher, samples, job.work / "teacher.targets", settings, on_progress=tick)
    start, layers = start_of(job, folder, teacher, [sample.token_ids for sample in samples], telling)
    student = load_model(start)
    stage = "training the student"
    telling.stage(stage)
    taught = in_own_ids(samples, teacher.tokenizer, student.tokenizer)
    # Without the teacher: what is chosen by is the right answer.
    chosen_on = text_samples(student, data.validation, recipe)
    too_long += len(data.validation) - len(chosen_on)
    left_out = {f"of more than {recipe.max_length} tokens": too_long} if too_long else {}
    for why, count in left_out.items():
        telling.left_out(why, count)
    recipe_work = job.work / "training"
    told = steps_of(telling, stage)
    trained = train(start, job.output, taught, chosen_on, recipe, work=recipe_work, on_progress=told)
    few_bits = quantized_student(job, telling)
    return Made(folder, job.output, few_bits, (), layers, trained, teacher_trained, left_out=left_out)


def _teacher(job: DistillJob, given: Model, data: Data, telling: Telling) -> tuple[Path, Trained | None]:
    """The given model, trained on the answers first: what it then says fits them."""
    start, stage = job.work / "teacher-start", "tuning the teacher"
    telling.stage(stage)
    if not start.exists():
        write_folder(given, start, dtype="float32")
    model, recipe = load_model(start), job.teacher_recipe
    rows, chosen_on = (text_samples(model, part, recipe) for part in (data.train, data.validation))
    work, told = job.work / "teacher-training", steps_of(telling, stage)
    return job.work / "teacher", train(
        start, job.work / "teacher", rows, chosen_on, recipe, work=work, on_progress=told
    )


def text_samples(model: Model, rows: Sequence[Example], recipe: Recipe) -> list[Sample]:
    """Conversations in the model's chat template, the answer and the token that ends it. Longer ones than the recipe
    allows are left out. Raises InvalidRequest where none is left."""
    end = model.tokenizer.token_id(model.tokenizer.eos_token)
    longest = recipe.longest(model.config.max_position_embeddings)
    found = []
    for row in rows:
        prompt = model.encode_chat(row.messages)
        ids = (*prompt, *model.tokenizer.encode(row.answer, add_bos=False), *(() if end is None else (end,)))
        if len(ids) <= longest:
            found.append(Sample(ids, num_prompt_tokens=len(prompt)))
    if not found:
        raise InvalidRequest(f"none of {len(rows)} rows has at most {longest} tokens with its answer")
    return found


def in_own_ids(samples: Sequence[Sample], teacher: Tokenizer, student: Tokenizer) -> list[Sample]:
    """The samples in the ids of a student's trimmed vocabulary. What the teacher says and the student cannot say at
    all is taken out of the teacher's distribution (id -1), and the rest made one again."""
    texts = [teacher.token_text(id) for id in range(teacher.vocab_size)]
    own = [None if text is None else student.token_id(text) for text in texts]
    new_ids: NDArray[np.int32] = np.array([-1 if id is None else id for id in own], np.int32)
    found = []
    for sample in samples:
        targets = sample.teacher
        assert isinstance(targets, SparseTargets)
        assert targets.tail_log_mass is not None
        ids = new_ids[targets.ids]
        is_known = ids >= 0
        missing = np.minimum((np.exp(targets.log_probs) * ~is_known).sum(axis=1), np.float32(0.99))  # [n]
        left = np.log1p(-missing)
        log_probs = np.where(is_known, targets.log_probs - left[:, None], LEAST_LOG).astype(np.float32)
        tail = np.minimum(targets.tail_log_mass - left, 0).astype(np.float32)
        kept = SparseTargets(ids, log_probs, tail)
        token_ids = tuple(new_ids[list(sample.token_ids)].tolist())
        found.append(replace(sample, token_ids=token_ids, teacher=kept))
    return found

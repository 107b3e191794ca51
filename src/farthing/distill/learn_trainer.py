"""The loop's tools as they are in service: students trained by torch, asked through our own engine."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from farthing.distill.folder import write_folder
from farthing.distill.learn_config import LearnConfig
from farthing.distill.learn_judge import Answers, Student
from farthing.distill.learn_tools import Lesson
from farthing.distill.progress import Progress
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample
from farthing.distill.torch_train import train
from farthing.economics.cost import HostCost
from farthing.engine.classifier import Classifier
from farthing.errors import InvalidRequest
from farthing.models import Model, load_model
from farthing.router.origin import chosen_part
from farthing.upstreams.classifier_config import ClassifierTable

__all__ = ["EngineStudent", "TrainerTools"]

POINT_PART = 0.1  # of the rows that teach: they choose the best point, and are not among those that judge


class EngineStudent:
    """A version in the engine, with the settings that the server gives it."""

    def __init__(self, folder: Path, table: ClassifierTable) -> None:
        self._classifier = Classifier(load_model(folder, weights=table.weights), table.engine())

    @property
    def labels(self) -> tuple[str, ...]:
        return self._classifier.labels

    @property
    def size(self) -> int:
        return self._classifier.model.num_active_parameters

    def answer(self, texts: Sequence[str]) -> Answers:
        classifier = self._classifier
        ids = [found[: classifier.max_len] for found in classifier.encode_all(texts)]
        before_s = classifier.stats().busy_s
        logits = classifier.classify(ids).astype(np.float64)
        seconds = (classifier.stats().busy_s - before_s) / max(len(texts), 1)
        shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
        logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        order = np.argsort(-logs, axis=1, kind="stable")[:, :2]
        first, second = (np.take_along_axis(logs, order[:, [at]], axis=1)[:, 0] for at in (0, 1))
        return Answers(tuple(classifier.labels[i] for i in order[:, 0].tolist()), first, first - second, seconds)


class TrainerTools:
    """table: of the upstream that serves the slot. on_progress: called after every step of a training."""

    def __init__(
        self,
        config: LearnConfig,
        recipe: Recipe,
        table: ClassifierTable,
        host: HostCost,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._config, self._table, self._host, self._on_progress = config, table, host, on_progress
        self._recipe = replace(recipe, minutes=config.minutes, num_threads=recipe.num_threads or config.threads)

    def train(self, lesson: Lesson, out: Path, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        model = self._begin(lesson, work)
        numbers = {label: number for number, label in enumerate(lesson.labels)}
        texts = [row.prompt for row in lesson.rows]
        ids = model.tokenizer.encode_alone(texts)
        samples = [Sample(tuple(found), label=numbers[row.answer]) for found, row in zip(ids, lesson.rows, strict=True)]
        is_point = chosen_part(texts, POINT_PART, "learn: best point").tolist()
        teaching = [sample for sample, is_so in zip(samples, is_point, strict=True) if not is_so]
        points = [sample for sample, is_so in zip(samples, is_point, strict=True) if is_so]
        if not teaching or not points:
            raise InvalidRequest(f"{len(samples)} rows are too few to teach a model; wait for more, or raise min_rows")
        train(model.path, out, teaching, points, self._recipe, work=work / "checkpoints", on_progress=self._on_progress)

    def open(self, folder: Path) -> Student:
        return EngineStudent(folder, self._table)

    def pico(self, seconds: float) -> float:
        return float(self._host.usd(seconds)) * 1e12

    def start_labels(self) -> tuple[str, ...]:
        return load_model(self._config.start).labels or ()

    def _begin(self, lesson: Lesson, work: Path) -> Model:
        """The version that serves, where it has the same labels; else the start, with a new head where it needs one."""
        if lesson.present is not None and (present := load_model(lesson.present)).labels == lesson.labels:
            return present
        begun = work / "start"
        if not begun.is_dir():
            start = load_model(self._config.start)
            is_kept = start.labels == lesson.labels
            labels = None if is_kept else lesson.labels
            write_folder(start, begun, dtype="float32", labels=labels, seed=self._recipe.seed)
        return load_model(begun)

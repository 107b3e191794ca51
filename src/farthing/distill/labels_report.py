"""What came of a distillation to labels: every model on the held-out rows, with its cost, in one table."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from farthing.distill.data import Data, Example
from farthing.distill.job import DistillJob
from farthing.distill.linear import train_linear
from farthing.distill.measure import LINEAR, Rows, cascade, classifier_logs, linear_logs, results, together
from farthing.distill.prompted import ask_prompted, prompted_rows
from farthing.distill.report_file import STUDENT, TEACHER
from farthing.distill.result import Cost, Quality, Result
from farthing.distill.samples import cut
from farthing.distill.stages import Made, Telling
from farthing.distill.timing import interleaved, medians
from farthing.economics.cost import HostCost
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.models import load_model

__all__ = ["PROMPTED", "measure_labels"]

PROMPTED = "prompted"
TIMED_TEXTS = 256
NUM_ROUNDS = 5


def measure_labels(
    job: DistillJob, data: Data, made: Made, host: HostCost, telling: Telling, prompted: str | None = None
) -> list[Result]:
    """The prompted teacher (of that name; else the given one, where it had to be tuned), the tuned one, the student as
    it was trained and quantized, the linear model, and the cascade. The teacher is timed in the student's few bits;
    long texts are cut as they were in training."""
    telling.stage("measuring")
    quantized = f"{STUDENT}, {job.format}"
    models = {
        TEACHER: load_model(made.teacher, weights=job.format),
        STUDENT: load_model(made.student),
        quantized: load_model(made.quantized),
    }
    classifiers = {name: Classifier(model, ClassifierConfig(job.num_threads)) for name, model in models.items()}
    place = {label: number for number, label in enumerate(made.labels)}

    def labels_of(rows: Sequence[Example]) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([place[row.answer] for row in rows], np.int64)

    texts = [row.text for row in data.train]
    linear = train_linear(texts, labels_of(data.train), len(made.labels), job.student_recipe.seed)

    def ids_of(classifier: Classifier, texts: Sequence[str]) -> list[tuple[int, ...]]:
        longest = job.student_recipe.longest(classifier.model.config.max_position_embeddings)
        return [cut(ids, longest) for ids in classifier.encode_all(texts)]

    def rows_of(rows: Sequence[Example]) -> Rows:
        texts = [row.text for row in rows]
        said = {name: classifier_logs(each, ids_of(each, texts)) for name, each in classifiers.items()}
        return Rows(labels_of(rows), said | {LINEAR: linear_logs(linear, texts)})

    timed = [row.text for row in _spread(data.held_out, TIMED_TEXTS)]
    rounds = interleaved(
        {name: lambda c=classifier: c.classify(ids_of(c, timed)) for name, classifier in classifiers.items()}
        | {LINEAR: lambda: linear.probabilities(timed)},
        NUM_ROUNDS,
    )
    rounds = {name: tuple(seconds / len(timed) for seconds in values) for name, values in rounds.items()}
    seconds, lengths = medians(rounds), {name: map(len, ids_of(c, timed)) for name, c in classifiers.items()}
    costs = {
        name: Cost(seconds[name], float(np.mean([*lengths[name]])), c.weight_bytes, rounds[name])
        for name, c in classifiers.items()
    }
    costs[LINEAR] = Cost(seconds[LINEAR], 0, linear.weights.nbytes, rounds[LINEAR])
    validation, measured = rows_of(data.validation), rows_of(data.held_out)
    found = results(measured, costs, TEACHER)
    found.append(together(validation, measured, costs, (LINEAR, quantized)))
    stages = (LINEAR, quantized, TEACHER)
    found += [cascade(validation, measured, costs, stages, is_best=is_best) for is_best in (False, True)]
    asked = prompted or (job.teacher if made.teacher_trained is not None else None)
    first = [] if asked is None else _prompted(asked, job, data, made, host, telling)
    return [*first, *found]


def _prompted(model: str, job: DistillJob, data: Data, made: Made, host: HostCost, telling: Telling) -> list[Result]:
    if job.num_prompted == 0:
        return []
    rows = prompted_rows(_spread(data.held_out, job.num_prompted), made.labels)
    telling.stage("asking the untrained teacher")
    count = 0

    def told() -> None:
        nonlocal count
        count += 1
        telling.tick("asking the untrained teacher", count, len(rows))

    found = asyncio.run(ask_prompted(model, rows, host, job.num_threads, told))
    cost = Cost(found.seconds, found.num_tokens, load_model(model).weight_bytes)
    return [Result(PROMPTED, Quality(found.num_rows, found.num_right), cost, note=f"{found.num_rows} rows alone")]


def _spread(rows: Sequence[Example], num: int) -> Sequence[Example]:
    """So many of the rows, from all over them: files are often sorted by label."""
    return rows if num >= len(rows) else [rows[i * len(rows) // num] for i in range(num)]

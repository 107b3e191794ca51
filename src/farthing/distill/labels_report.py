"""What came of a distillation to labels: every model on the held-out rows, with its cost, in one table."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from farthing.distill.cascade_folder import MeasuredCascade, cascade_file, kept_seconds
from farthing.distill.data import Data, Example
from farthing.distill.job import DistillJob
from farthing.distill.linear import train_linear
from farthing.distill.measure import LINEAR, Chosen, Rows, choose_points, measured_cascade, results, together
from farthing.distill.prompted import ask_prompted, prompted_rows
from farthing.distill.report_file import STUDENT, TEACHER
from farthing.distill.result import Cost, Quality, Result
from farthing.distill.stages import Made, Telling, quantized_teacher
from farthing.distill.timing import interleaved, medians
from farthing.economics.cost import HostCost
from farthing.engine.cascade_classifier import CascadeClassifier, classifier_logs
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.engine.labelling import Prompt, cut
from farthing.models import Model, load_model
from farthing.models.cascade_file import PointName

__all__ = ["PROMPTED", "LabelsMeasured", "measure_labels"]

PROMPTED = "prompted"
TOKENS = "tokens"  # the cutting of texts
TIMED_TEXTS = 1024
CHOOSING_TEXTS = 256


@dataclass(frozen=True)
class LabelsMeasured:
    """The rows of the table, the last two of which are the cascade's."""

    results: list[Result]
    cascade: MeasuredCascade


def measure_labels(
    job: DistillJob, data: Data, made: Made, host: HostCost, telling: Telling, prompted: str | None = None
) -> LabelsMeasured:
    """The prompted teacher (of that name; else the given one, where it had to be tuned), the tuned one, the student as
    it was trained and quantized, the linear model, and the cascade. The teacher is timed in the student's few bits;
    long texts are cut as they were in training."""
    telling.stage("measuring")
    quantized, teacher = f"{STUDENT}, {job.format}", quantized_teacher(job, made.teacher)
    models = _Models(job, data, made, {
        TEACHER: load_model(teacher),
        STUDENT: load_model(made.student),
        quantized: load_model(made.quantized),
    })  # fmt: skip
    stages = (LINEAR, quantized, TEACHER)
    validation, measured = models.rows(data.validation), models.rows(data.held_out)
    seconds = kept_seconds(job, models.seconds(_texts(data.validation, CHOOSING_TEXTS), stages))
    cheapest, best = choose_points(validation, seconds, stages)
    points: Mapping[PointName, Chosen] = {"best": best, "cheapest": cheapest}
    cascade = MeasuredCascade(models.linear, made.quantized, teacher, points)
    alone, chains = models.costs(_texts(data.held_out, TIMED_TEXTS), models.chains(cascade, made.labels, stages))
    found = results(measured, alone, TEACHER)
    found.append(together(validation, measured, alone, (LINEAR, quantized)))
    found.append(measured_cascade(cheapest, measured, chains["cheapest"], stages))
    found.append(measured_cascade(best, measured, chains["best"], stages, is_best=True))
    asked = prompted or (job.teacher if made.teacher_trained is not None else None)
    first = [] if asked is None else _prompted(asked, job, data, made, host, telling)
    return LabelsMeasured([*first, *found], cascade)


class _Models:
    """All that are asked about the same rows, by their names in the table; the linear one is trained here."""

    def __init__(self, job: DistillJob, data: Data, made: Made, models: Mapping[str, Model]) -> None:
        self._job = job
        self._place = {label: number for number, label in enumerate(made.labels)}
        config = ClassifierConfig(job.num_threads)
        self._classifiers = {name: Classifier(model, config) for name, model in models.items()}
        texts = [row.text for row in data.train]
        self.linear = train_linear(texts, self._labels(data.train), len(made.labels), job.student_recipe.seed)

    def rows(self, rows: Sequence[Example]) -> Rows:
        texts = [row.text for row in rows]
        said = {name: classifier_logs(each, self._ids(each, texts)) for name, each in self._classifiers.items()}
        return Rows(self._labels(rows), said | {LINEAR: self.linear.log_probabilities(texts)})

    def seconds(self, texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
        """What each stage of a cascade adds to a request. The first one reads no tokens, but every text is cut into
        those of the second: what is asked of it later has them."""
        runs, first, second = self._runs(texts), names[0], names[1]
        tokens = partial(self._ids, self._classifiers[second], texts)
        found = medians(interleaved({name: runs[name] for name in names} | {TOKENS: tokens}))
        found[first] += found[TOKENS]
        found[second] = max(found[second] - found[TOKENS], 0.1 * found[second])  # a disturbed round may turn them about
        return {name: found[name] / len(texts) for name in names}

    def chains(
        self, cascade: MeasuredCascade, labels: tuple[str, ...], stages: Sequence[str]
    ) -> dict[PointName, CascadeClassifier]:
        """Each point as it is served."""
        file, models = cascade_file(self._job, labels, cascade), [self._classifiers[name] for name in stages[1:]]
        return {
            name: CascadeClassifier(name, file, name, self.linear, models[: max(1, chosen.point.num_stages - 1)])
            for name, chosen in cascade.points.items()
        }

    def costs(
        self, texts: Sequence[str], chains: Mapping[PointName, CascadeClassifier]
    ) -> tuple[dict[str, Cost], dict[PointName, Cost]]:
        """Of each model alone, and of the cascades, timed side by side: tokenizing is in them too."""
        found = interleaved(self._runs(texts) | {name: partial(_label, each, texts) for name, each in chains.items()})
        rounds = {name: tuple(seconds / len(texts) for seconds in values) for name, values in found.items()}
        seconds = medians(rounds)
        alone = {}
        for name, each in self._classifiers.items():
            num_tokens = float(np.mean([len(ids) for ids in self._ids(each, texts)]))
            alone[name] = Cost(seconds[name], num_tokens, each.weight_bytes, rounds[name])
        alone[LINEAR] = Cost(seconds[LINEAR], 0, self.linear.weights.nbytes, rounds[LINEAR])
        return alone, {
            name: Cost(seconds[name], 0, each.weight_bytes, rounds[name]) for name, each in chains.items()
        }

    def _runs(self, texts: Sequence[str]) -> dict[str, Callable[[], object]]:
        runs: dict[str, Callable[[], object]] = {
            name: partial(self._classify, each, texts) for name, each in self._classifiers.items()
        }
        return runs | {LINEAR: partial(self.linear.probabilities, texts)}

    def _classify(self, classifier: Classifier, texts: Sequence[str]) -> None:
        classifier.classify(self._ids(classifier, texts))

    def _labels(self, rows: Sequence[Example]) -> NDArray[np.int64]:
        return np.array([self._place[row.answer] for row in rows], np.int64)

    def _ids(self, classifier: Classifier, texts: Sequence[str]) -> list[tuple[int, ...]]:
        longest = self._job.student_recipe.longest(classifier.max_len)
        return [cut(ids, longest) for ids in classifier.encode_all(texts)]


def _label(cascade: CascadeClassifier, texts: Sequence[str]) -> None:
    ids = [cut(found, cascade.max_len) for found in cascade.encode_all(texts)]
    cascade.label([Prompt(*pair) for pair in zip(ids, texts, strict=True)])


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


def _texts(rows: Sequence[Example], num: int) -> list[str]:
    return [row.text for row in _spread(rows, num)]


def _spread(rows: Sequence[Example], num: int) -> Sequence[Example]:
    """So many of the rows, from all over them: files are often sorted by label."""
    return rows if num >= len(rows) else [rows[i * len(rows) // num] for i in range(num)]

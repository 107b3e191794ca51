"""CascadeClassifier: a linear model, then ever larger ones, each asked only about the texts that are still open.

The rule by which they answer is that of the measurement (cascade_rule.py). The second stage, the student, bounds the
lengths and counts the tokens of all texts; the others read the text itself.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.engine.cascade_rule import decide
from farthing.engine.classifier import Classifier, ClassifierConfig, ClassifierStats
from farthing.engine.labelling import Labelled, Prompt, cut, split_ns
from farthing.errors import CorruptModel, ModelNotFound
from farthing.models import load_model
from farthing.models.cascade_file import CascadeFile, PointName, read_cascade
from farthing.models.linear import Linear
from farthing.models.linear_file import read_linear
from farthing.models.log_softmax import log_softmax

__all__ = ["BEST", "CascadeClassifier", "classifier_logs", "open_cascade"]

F32 = NDArray[np.float32]
BEST: PointName = "best"


class CascadeClassifier:
    """Not safe for concurrent calls. clock_ns: a monotonic clock in nanoseconds. models: the stages behind the linear
    one, the student first; those that the point does not ask are left out."""

    def __init__(
        self,
        name: str,
        file: CascadeFile,
        point: str,
        linear: Linear,
        models: Sequence[Classifier],
        *,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.name, self.labels, self.point = name, file.labels, file.point(point)
        self.stages = tuple(stage.name for stage in file.stages[: self.point.num_stages])
        self._max_tokens, self._linear, self._models = file.max_tokens, linear, models
        self.config, self.model, self.max_len = models[0].config, models[0].model, models[0].max_len
        self._clock_ns = clock_ns
        self._num_texts = self._num_tokens = self._busy_ns = 0

    @property
    def weight_bytes(self) -> int:
        arrays = (self._linear.idf, self._linear.weights, self._linear.offsets)
        return sum(array.nbytes for array in arrays) + sum(model.weight_bytes for model in self._models)

    def stats(self) -> ClassifierStats:
        """Texts and tokens are those that were given, steps those of all models."""
        num_steps = sum(model.stats().num_steps for model in self._models)
        return ClassifierStats(self._num_texts, self._num_tokens, num_steps, self._busy_ns / 1e9)

    def encode(self, text: str) -> list[int]:
        return self._models[0].encode(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._models[0].encode_all(texts)

    def label(self, prompts: Sequence[Prompt]) -> Labelled:
        """Mixed log-probabilities; a stage's time is shared, by tokens, among the texts that it was asked about."""
        self._models[0].check([prompt.token_ids for prompt in prompts])
        lengths = np.array([len(prompt.token_ids) for prompt in prompts], np.int64)
        times_ns = np.zeros(len(prompts), np.int64)
        begun_ns = self._clock_ns()

        def ask(stage: int, rows: NDArray[np.int64]) -> F32:
            started_ns = self._clock_ns()
            said = self._said(stage, [prompts[row] for row in rows])
            times_ns[rows] += split_ns(self._clock_ns() - started_ns, lengths[rows])
            return said

        found = decide(self.point, len(prompts), len(self.labels), ask)
        self._busy_ns += self._clock_ns() - begun_ns
        self._num_texts += len(prompts)
        self._num_tokens += int(lengths.sum())
        return Labelled(found.logs.astype(np.float32), found.walk.stages, times_ns)

    def is_sound(self, text: str) -> bool:
        numbers = self._linear.log_probabilities([text])
        return bool(np.isfinite(numbers).all()) and all(model.is_sound(text) for model in self._models)

    def warm_up(self) -> None:
        for model in self._models:
            model.warm_up()

    def _said(self, stage: int, prompts: Sequence[Prompt]) -> F32:
        """A stage's own log-probabilities."""
        if stage == 0:
            return self._linear.log_probabilities([self._text(prompt) for prompt in prompts])
        model = self._models[stage - 1]
        if stage == 1:
            ids: Sequence[Sequence[int]] = [prompt.token_ids for prompt in prompts]
        else:
            # Control tokens that were given as ids are no text: to the teacher such a prompt is any token.
            ids = [found or [0] for found in model.encode_all([self._text(prompt) for prompt in prompts])]
        longest = min(self._max_tokens, model.max_len)
        return classifier_logs(model, [cut(each, longest) for each in ids])

    def _text(self, prompt: Prompt) -> str:
        return self.model.tokenizer.decode(prompt.token_ids) if prompt.text is None else prompt.text


def classifier_logs(classifier: Classifier, token_ids: Sequence[Sequence[int]]) -> F32:
    """Log-probabilities [n, num_labels], as cascades mix them."""
    return log_softmax(classifier.classify(token_ids).astype(np.float64)).astype(np.float32)


def open_cascade(folder: Path, config: ClassifierConfig, point: str = BEST) -> CascadeClassifier:
    """Only the models that the point asks, and the student, are opened. Raises as `read_cascade` and `load_model` do,
    CorruptModel where a stage has other labels."""
    file = read_cascade(folder)
    num_stages = max(2, file.point(point).num_stages)
    models = []
    for stage in file.stages[1:num_stages]:
        path = folder / stage.path
        if not path.exists():  # else it is taken for the name of a model to pull
            raise ModelNotFound(f"{path} is missing; write the folder anew with farthing distill")
        model = load_model(path)
        if model.labels != file.labels:
            raise CorruptModel(f"{path} has other labels than {folder}; write the folder anew with farthing distill")
        models.append(Classifier(model, config))
    linear = read_linear(folder / file.stages[0].path, len(file.labels))
    return CascadeClassifier(folder.resolve().name, file, point, linear, models)

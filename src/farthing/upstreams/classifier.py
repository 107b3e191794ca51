"""Classifiers as an upstream: the last thing the user said goes in, a label comes out, with its probability.

    [[upstream]]
    name = "intents"
    kind = "classifier"
    models = ["models/intents"]        # a model with a classification head, or a cascade; a link or a slot

What comes in together is answered in one batch. Where a path stands for another version than before (a link that was
turned, a slot's `current`), that one is opened beside the present one and takes its place between two batches. A slot
without a version answers 503 until it gets one.
Importing this module is cheap: NumPy and the engine are imported when a model is loaded.
"""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.errors import FarthingError, InvalidRequest
from farthing.upstreams.call import Call, Chunk, Tally
from farthing.upstreams.classifier_answer import Question, read_question
from farthing.upstreams.classifier_config import ClassifierTable, served_as
from farthing.upstreams.errors import UpstreamError

if TYPE_CHECKING:
    from farthing.engine import EngineLoad, EngineStats
    from farthing.engine.labelling import Labeller
    from farthing.upstreams.classifier_thread import ClassifierThread

__all__ = ["ClassifierUpstream", "Serving"]

PROVIDER = "local"
log = logging.getLogger("farthing.engine")


@dataclass(frozen=True)
class Serving:
    """Which version of a model answers, and how often that changed."""

    version: str  # "" as long as there is none
    num_swaps: int
    num_refused: int  # versions that could not be opened, or found
    num_by_stage: Mapping[str, int]  # answers of each stage, of versions that are cascades


class ClassifierUpstream:
    """Raises InvalidRequest for settings that cannot be."""

    is_local = True
    provider = PROVIDER

    def __init__(self, name: str, config: ClassifierTable) -> None:
        self.name = name
        self.config = config
        self._models: dict[str, _Model] = {}
        for source in config.models:
            model = _Model(source, config)
            if model.name in self._models:
                raise InvalidRequest(f"models has two that are called {model.name!r}; rename a file or folder")
            self._models[model.name] = model
        self._workers = ThreadPoolExecutor(1, thread_name_prefix="farthing-classifiers")  # to load in

    @classmethod
    def from_config(cls, name: str, table: Mapping[str, Any], host: HostCost) -> "ClassifierUpstream":  # noqa: ARG003
        """From a table of farthing.toml. Raises InvalidRequest for what it does not allow."""
        return cls(name, ClassifierTable.from_table(table))

    async def start(self) -> None:
        """Load the models, where `preload` says so. Raises FarthingError where one cannot be."""
        if self.config.preload:
            for model in self._models.values():
                await asyncio.get_running_loop().run_in_executor(self._workers, model.load)

    async def models(self) -> list[str]:
        return list(self._models)

    def engine_figures(self) -> "dict[str, tuple[EngineLoad, EngineStats]]":
        """For metrics: what each loaded model is at, and has done, all its versions together."""
        threads = {name: model.thread for name, model in self._models.items()}
        return {name: (thread.load(), thread.stats()) for name, thread in threads.items() if thread is not None}

    def serving(self) -> dict[str, Serving]:
        """For metrics: of each loaded model."""
        threads = {name: model.thread for name, model in self._models.items()}
        return {
            name: Serving(thread.version, thread.num_swaps, thread.num_refused, dict(thread.num_by_stage))
            for name, thread in threads.items()
            if thread is not None
        }

    def max_usage(self, call: Call) -> Usage:
        """The text's exact tokens, and a token for each answer. Loads the model: call it in a worker thread."""
        from farthing.upstreams.classifier_batch import check_prompt, check_text

        question = read_question(call)
        _check_share(call, question)
        classifier = self._loaded(call.model).classifier
        num_input = 0
        for prompt in question.prompts:
            if isinstance(prompt, str) and (error := check_text(classifier, prompt, question.param)) is not None:
                raise error
            ids = classifier.encode(prompt) if isinstance(prompt, str) else prompt
            if (error := check_prompt(classifier, ids, question.param)) is not None:
                raise error
            num_input += len(ids)
        return Usage(num_input, 0, question.num_answers)

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        tally.upstream, tally.provider, tally.is_local = self.name, PROVIDER, True
        tally.usage_source, tally.model = "engine", call.model
        question = read_question(call)
        _check_share(call, question)
        model = self._model(call.model)
        thread = model.thread
        if thread is None:
            thread = await asyncio.get_running_loop().run_in_executor(self._workers, self._loaded, call.model)
        from farthing.upstreams.classifier_job import ClassifierJob

        job = ClassifierJob(question, call.allowance, tally)
        thread.submit(job)
        try:
            found = await job.found()
            assert found.logprobs is not None
            for at in range(question.num_answers):
                row = found.logprobs[at // question.n]
                yield question.form.chunk(at, found.labels, row, question.num_top)
        finally:
            job.is_unwanted = True
            await job.over()

    async def aclose(self) -> None:
        """A model that is being loaded cannot be stopped: it is waited for, so that it can be let go of too."""
        await asyncio.to_thread(self._workers.shutdown, cancel_futures=True)
        for model in self._models.values():
            if model.thread is not None:
                await model.thread.aclose()

    def _model(self, name: str) -> "_Model":
        model = self._models.get(name)
        if model is None:
            what = f"model {name[:100]!r} is not here; there are: {', '.join(self._models)}"
            raise UpstreamError(what, status=404, code="model_not_found", param="model")
        return model

    def _loaded(self, name: str) -> "ClassifierThread":
        """Takes long the first time: in a worker thread. Raises UpstreamError."""
        model = self._model(name)
        try:
            return model.load()
        except FarthingError as error:
            log.error("model %s could not be loaded: %s", name, error)
            what = f"model {name} could not be loaded; the server's log says why"
            raise UpstreamError(what, status=503, code="model_unavailable") from None


class _Model:
    """One model: loaded when it is needed, asked through its thread."""

    def __init__(self, source: str, config: ClassifierTable) -> None:
        self.name = served_as(source)
        self._source, self._config = source, config
        self._lock = threading.Lock()
        self._thread: ClassifierThread | None = None

    @property
    def thread(self) -> "ClassifierThread | None":
        """None before it is loaded."""
        return self._thread

    def load(self) -> "ClassifierThread":
        """Raises FarthingError where the file or the settings cannot be used."""
        from farthing.models.hub import find_model
        from farthing.upstreams.classifier_thread import ClassifierThread

        with self._lock:
            if self._thread is None:
                config, path = self._config, Path(os.path.expanduser(self._source))
                self._thread = ClassifierThread(
                    self.name,
                    path if os.path.lexists(path) else find_model(self._source),
                    self._make,
                    max_num_seqs=config.max_num_seqs,
                    max_waiting=config.max_waiting,
                    look_every_s=config.look_every_s,
                )
            return self._thread

    def _make(self, path: Path) -> "Labeller":
        from farthing.engine.open_labeller import open_labeller

        return open_labeller(path, self._config.engine(), weights=self._config.weights, point=self._config.point)


def _check_share(call: Call, question: Question) -> None:
    """An answer is a token: a budget that leaves none leaves no answer."""
    num = question.num_answers
    if call.max_output_tokens is not None and call.max_output_tokens < num:
        what = f"{num} answers are asked for, and the budget leaves {call.max_output_tokens} tokens for all"
        raise UpstreamError(what, status=429, code="insufficient_quota")

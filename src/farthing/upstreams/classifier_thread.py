"""The thread that owns a classifier: what has come in together is answered together, and between two batches another
version takes the place of the present one.

    event loop                            thread                            opener (only while a version is loaded)
    submit       --- inbox, condition ->  encode, classify
    Job.take     <- one call per batch -  look: is another version there? -> open, try
                                          swap between two batches       <-
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.errors import CorruptModel, FarthingError
from farthing.models.slot import NoVersion, Version, look
from farthing.upstreams.classifier_batch import answer
from farthing.upstreams.classifier_job import ClassifierJob, Found
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.under_way import RETRY_AFTER_S, closed, failed

if TYPE_CHECKING:
    from farthing.engine import EngineLoad, EngineStats
    from farthing.engine.labelling import Labeller

__all__ = ["ClassifierThread"]

TRIED = "Is this version sound?"  # classified before a version is given anything
log = logging.getLogger("farthing.engine")


class ClassifierThread:
    """make opens a version's path. Raises FarthingError where the first one cannot be opened; a slot without one waits
    for it."""

    def __init__(
        self,
        name: str,
        path: Path,
        make: Callable[[Path], "Labeller"],
        *,
        max_num_seqs: int = 64,
        max_waiting: int = 1024,
        look_every_s: float = 1.0,
    ) -> None:
        self._name, self._path, self._make = name, path, make
        self._max_num_seqs, self._max_waiting, self._look_every_s = max_num_seqs, max_waiting, look_every_s
        self._condition = threading.Condition()
        self._inbox: list[ClassifierJob] = []
        self._is_closing = False
        self._version: Version | None = None
        self._classifier: Labeller | None = None
        try:
            self._version = look(path)
            self._classifier = _opened(make, self._version)
        except NoVersion as error:
            log.warning("classifier %s: %s", name, error)
        self._next: tuple[Version, Labeller] | None = None
        self._is_opening = False
        self._refused: tuple[str, int, int] | None = None  # the key of a version that could not be opened
        self._trouble = ""  # what the last look said, so that it is logged once
        self._looked_s = time.monotonic()
        self._busy_ns = self._num_steps = self._num_tokens = self._num_texts = self._num_running = 0
        self.num_swaps = self.num_refused = 0
        self.num_by_stage: Counter[str] = Counter()  # answers, of all versions that are cascades
        self._thread = threading.Thread(target=self._run, name="farthing-classifier", daemon=True)
        self._thread.start()

    @property
    def classifier(self) -> "Labeller":
        """The present version, to ask for sizes and token ids; only the thread may let it classify. Raises
        UpstreamError (503) as long as there is none."""
        if self._classifier is None:
            raise UpstreamError(
                f"model {self._name} has no version yet",
                status=503,
                code="no_version",
                retry_after_s=self._look_every_s,
                is_retryable=True,
                is_failure=False,
            )
        return self._classifier

    @property
    def version(self) -> str:
        """Empty as long as there is none."""
        return "" if self._version is None else self._version.name

    def load(self) -> "EngineLoad":
        from farthing.engine import EngineLoad

        return EngineLoad(self._num_running, len(self._inbox), num_pages=0, num_used_pages=0)

    def stats(self) -> "EngineStats":
        """Of all versions together."""
        from farthing.engine import EngineStats

        return EngineStats(self._busy_ns * 1e-9, self._num_steps, self._num_tokens, 0, 0, self._num_texts, 0, 0, 0)

    def submit(self, job: ClassifierJob) -> None:
        """Raises UpstreamError (503) where too many wait already, where there is no version yet, or at the end."""
        _ = self.classifier
        with self._condition:
            if self._is_closing:
                raise closed()
            if len(self._inbox) >= self._max_waiting and self._inbox:
                raise UpstreamError(
                    f"{len(self._inbox)} calls wait; at most {self._max_waiting} are taken: try again later",
                    status=503,
                    code="overloaded",
                    retry_after_s=RETRY_AFTER_S,
                    is_retryable=True,
                )
            self._inbox.append(job)
            self._condition.notify()

    async def aclose(self) -> None:
        """Answer nothing more, fail what waits, let the model go."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join)

    # From here on in the thread.

    def _run(self) -> None:
        while (jobs := self._wait()) is not None:
            try:
                if time.monotonic() - self._looked_s >= self._look_every_s:
                    self._look()
                self._swap()
            except Exception:  # no memory for a thread, say: the present version goes on
                log.exception("classifier %s could not look for another version", self._name)
            if jobs:
                self._num_running = len(jobs)
                found = self._answer(jobs)
                self._num_running = 0  # before anybody is told: whoever has the last answer sees nothing under way
                _send(found)
        with self._condition:
            left, self._inbox = self._inbox, []
        _send([(job, Found(Usage(), 0.0, error=closed())) for job in left])

    def _wait(self) -> list[ClassifierJob] | None:
        """What has come in, at most so many texts; [] when it is time to look, or another version is ready; None at the
        end."""
        with self._condition:
            if not (self._inbox or self._is_closing or self._next):
                self._condition.wait(self._look_every_s)
            if self._is_closing:
                return None
            num_jobs = num_texts = 0
            for job in self._inbox:
                num_texts += len(job.question.prompts)
                if num_jobs and num_texts > self._max_num_seqs:
                    break
                num_jobs += 1
            jobs, self._inbox = self._inbox[:num_jobs], self._inbox[num_jobs:]
            return jobs

    def _answer(self, jobs: Sequence[ClassifierJob]) -> list[tuple[ClassifierJob, Found]]:
        classifier = self.classifier
        steps = classifier.stats().num_steps
        try:
            found = answer(classifier, jobs)
        except Exception:
            log.exception("classifier %s failed; the calls of this batch are given up", self._name)
            found = [(job, Found(Usage(), 0.0, error=failed())) for job in jobs]
        self._busy_ns += sum(round(one.usage.input_s * 1e9) for _, one in found)
        self._num_steps += classifier.stats().num_steps - steps
        self._num_tokens += sum(one.usage.input_tokens for _, one in found)
        self._num_texts += sum(one.usage.output_tokens for _, one in found)
        for _, one in found:
            for stage in one.stages:
                self.num_by_stage[stage] += 1
        return found

    def _look(self) -> None:
        """Begin to open another version, where one is there; one at a time."""
        self._looked_s = time.monotonic()
        try:
            version = look(self._path)
        except FarthingError as error:
            if self._version is not None and str(error) != self._trouble:
                log.error("classifier %s: %s; version %s goes on", self._name, error, self._version.name)
                self._trouble, self.num_refused = str(error), self.num_refused + 1
            return
        self._trouble = ""
        if self._version is not None and version.key == self._version.key:
            self._refused = None  # who comes back to a version that was refused has perhaps mended it
        elif version.key != self._refused and not self._is_opening and self._next is None:
            self._is_opening = True
            try:
                threading.Thread(target=self._open, args=(version,), name="farthing-opener", daemon=True).start()
            except RuntimeError:
                self._is_opening = False
                raise

    def _open(self, version: Version) -> None:
        """In a thread of its own: the present version answers meanwhile."""
        opened: Labeller | None = None
        try:
            opened = _opened(self._make, version)
        except Exception as error:
            what = str(error) if isinstance(error, FarthingError) else f"{type(error).__name__}: {error}"
            log.error("classifier %s: version %s cannot be opened: %s", self._name, version.name, what)
        with self._condition:
            if opened is None:
                self._refused, self.num_refused = version.key, self.num_refused + 1
            else:
                self._next = (version, opened)
            self._is_opening = False
            self._condition.notify()

    def _swap(self) -> None:
        with self._condition:
            ready, self._next = self._next, None
        if ready is None:
            return
        try:
            is_wanted = look(self._path).key == ready[0].key
        except FarthingError:
            is_wanted = False
        if is_wanted:  # not where it was taken back while it was opened: the next look sees to that
            before = self.version or "nothing"
            log.info("classifier %s: version %s takes the place of %s", self._name, ready[0].name, before)
            self._version, self._classifier = ready
            self._refused = None
            self.num_swaps += 1


def _opened(make: Callable[[Path], "Labeller"], version: Version) -> "Labeller":
    """Open a version and try it. Raises FarthingError where it cannot be used."""
    classifier = make(version.path)
    if not classifier.is_sound(TRIED):
        raise CorruptModel(f"{version.path}: its logits are not finite numbers")
    return classifier


def _send(found: Sequence[tuple[ClassifierJob, Found]]) -> None:
    """One call for each loop; as a rule there is one."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[ClassifierJob, Found]]] = {}
    for job, one in found:
        by_loop.setdefault(job.loop, []).append((job, one))
    for loop, its in by_loop.items():
        try:
            loop.call_soon_threadsafe(_deliver, its)
        except RuntimeError:  # the loop is closed, and nobody will ever read these
            continue


def _deliver(found: Sequence[tuple[ClassifierJob, Found]]) -> None:
    for job, one in found:
        job.take(one)

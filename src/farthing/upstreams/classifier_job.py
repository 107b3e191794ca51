"""A call on its way through a classifier, as its event loop sees it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.upstreams.call import Allowance, Tally
from farthing.upstreams.classifier_answer import Question
from farthing.upstreams.errors import UpstreamError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ClassifierJob", "Found"]


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a job: log-probabilities [number of prompts, num_labels], or why there are none. stages: of a
    cascade, which one answered each prompt."""

    usage: Usage
    queue_s: float
    labels: Sequence[str] = ()
    logprobs: "npt.NDArray[np.float32] | None" = None
    stages: Sequence[str] = ()
    error: UpstreamError | None = None


class ClassifierJob:
    """Belongs to the loop it is made in; the tally is final once it is over."""

    def __init__(self, question: Question, allowance: Allowance | None, tally: Tally) -> None:
        self.question, self.allowance, self.tally = question, allowance, tally
        self.loop = asyncio.get_running_loop()
        self.submitted_ns = time.perf_counter_ns()
        self.is_unwanted = False  # nobody waits any more: not to be begun
        self._found: asyncio.Future[Found] = self.loop.create_future()

    @property
    def is_over(self) -> bool:
        return self._found.done()

    def take(self, found: Found) -> None:
        """Called in the loop, once."""
        self.tally.usage, self.tally.queue_s = found.usage, found.queue_s
        if not self._found.done():
            self._found.set_result(found)

    async def found(self) -> Found:
        """Raises UpstreamError where there is no answer."""
        found = await asyncio.shield(self._found)
        if found.error is not None:
            raise found.error
        return found

    async def over(self) -> None:
        """Wait until it is over. A cancellation meanwhile is kept for afterwards: what was used is not known before."""
        cancelled: asyncio.CancelledError | None = None
        while not self._found.done():
            try:
                await asyncio.shield(self._found)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

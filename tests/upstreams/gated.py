"""An engine whose steps wait until a test lets them go, and its thread."""

import asyncio
import threading

from farthing.engine import Engine, EngineConfig
from farthing.upstreams.engine_thread import EngineThread
from farthing.upstreams.job import Job, Piece
from tests.engine.fake import FakeClock, FakeKernels, FakeModel


class GatedKernels(FakeKernels):
    """Each step takes one permit, where `is_gated`; `failures` are raised by steps, the first first."""

    def __init__(self, *, is_gated: bool = False) -> None:
        self.permits = threading.Semaphore(0)
        self.is_gated = is_gated
        self.failures: list[BaseException] = []
        self.started = threading.Semaphore(0)  # steps that have begun

    def run(self, program, batch):
        self.started.release()
        if self.is_gated:
            assert self.permits.acquire(timeout=20), "nobody let the step go on"
        if self.failures:
            raise self.failures.pop(0)
        return super().run(program, batch)

    async def begun(self) -> None:
        """Until one more step has begun."""
        assert await asyncio.to_thread(self.started.acquire, timeout=20)


class Made:
    """An engine's thread, its engines, and their kernels."""

    def __init__(self, *, is_gated: bool = False, max_under_way: int = 1000, **config) -> None:
        self.kernels = GatedKernels(is_gated=is_gated)
        self.engines: list[Engine] = []
        self._config = EngineConfig(**{"page_size": 8, "num_pages": 64, **config})
        self.thread = EngineThread(self.make(), self.make, max_under_way)

    def make(self) -> Engine:
        self.engines.append(Engine(FakeModel(), self._config, kernels=self.kernels, clock_ns=FakeClock()))
        return self.engines[-1]

    @property
    def engine(self) -> Engine:
        return self.engines[-1]

    async def __aenter__(self) -> "Made":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kernels.is_gated = False
        self.kernels.permits.release(1000)
        await self.thread.aclose()
        self.engine.cache.check_idle()
        assert self.engine.cache.num_leased == 0


async def read(thread: EngineThread, job: Job) -> list[Piece]:
    """All pieces of a job, as a client that reads to the end would get them."""
    thread.submit(job)
    found = []
    try:
        while pieces := await job.pieces():
            found += pieces
    finally:
        await thread.end(job)
    return found

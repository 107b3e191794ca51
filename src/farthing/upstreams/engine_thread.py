"""The thread that owns an engine, and steps it while there is work.

    event loop                                thread
    submit, abort  --- inbox, condition --->  engine.submit, abort; engine.step
    Job.take       <-- one call per step ---  what the step brought all jobs

Nobody polls: without work the thread sleeps on the condition, and a loop is woken once per step at most, whatever the
number of streams; with many streams and quick steps each stream gets several tokens at a time. An abort waits for the
step under way, then its request is in no further one.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from farthing.economics.usage import Usage
from farthing.errors import FarthingError
from farthing.request import Done
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.job import Job, News
from farthing.upstreams.under_way import RETRY_AFTER_S, UnderWay, closed, failed, used_up

if TYPE_CHECKING:
    from farthing.engine import Engine, EngineLoad, EngineStats

__all__ = ["EngineThread"]

# Pieces, of all streams together: each costs the loop some 50 us and its client 20, which the engine goes without where
# they share its cores. So 16 streams are told 25 times a second each.
MAX_TOLD_PER_S = 400
SAVE_AFTER_S = 2.0  # without work, then the complete pages go into the cold tier
log = logging.getLogger("farthing.engine")


class EngineThread:
    """make_engine is called again where a step failed and left its engine unusable.

    max_under_way: requests, running and waiting, that are taken at most.
    """

    def __init__(self, engine: "Engine", make_engine: Callable[[], "Engine"], max_under_way: int) -> None:
        self.max_len = engine.max_len
        self._engine, self._make_engine = engine, make_engine
        self._max_under_way = max_under_way
        self._num_under_way = 0  # requests; the loop's count
        self._condition = threading.Condition()
        self._inbox: list[tuple[Job, bool]] = []  # (job, whether it is to be aborted)
        self._is_closing = False
        self._is_broken = False
        self._jobs: dict[Job, UnderWay] = {}
        self._by_id: dict[int, tuple[UnderWay, int]] = {}  # request id -> its job, its choice
        self._thread = threading.Thread(target=self._run, name="farthing-engine", daemon=True)
        self._thread.start()

    def load(self) -> "EngineLoad":
        """A moment's figures, read without waiting for the thread."""
        return self._engine.load()

    def stats(self) -> "EngineStats":
        return self._engine.stats()

    def submit(self, job: Job) -> None:
        """Raises UpstreamError (503) where too many wait already."""
        num = len(job.requests)
        if self._num_under_way and self._num_under_way + num > self._max_under_way:
            raise UpstreamError(
                f"{self._num_under_way} requests are under way and waiting; at most {self._max_under_way} are taken: "
                "try again later",
                status=503,
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
                is_retryable=True,
            )
        self._num_under_way += num
        self._put(job, is_abort=False)

    async def end(self, job: Job) -> None:
        """Stop a job where it is not over; then its usage is final. To be called for each that was submitted."""
        try:
            if not job.is_over:
                self._put(job, is_abort=True)
                await job.over()
        finally:
            self._num_under_way -= len(job.requests)

    async def aclose(self) -> None:
        """Fail what is under way, save the pages, let the engine go."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join)

    def _put(self, job: Job, *, is_abort: bool) -> None:
        with self._condition:
            if not self._is_closing:
                self._inbox.append((job, is_abort))
                self._condition.notify()
                return
        if not is_abort:  # the thread tells all others, or has told them
            job.take(News(job, Usage(), is_over=True, error=closed()))

    # From here on in the thread.

    @property
    def _has_work(self) -> bool:
        return self._engine.has_work and not self._is_broken

    def _run(self) -> None:
        while True:
            inbox = self._wait()
            if inbox is None:
                break
            for job, is_abort in inbox:
                try:
                    (self._abort if is_abort else self._submit)(job)
                except Exception:
                    log.exception("a request could not be %s", "aborted" if is_abort else "submitted")
                    self._send([News(job, job.tally.usage, is_over=True, error=failed())])
                    self._fail(failed())
            if self._has_work:
                self._step()
        self._fail(closed())
        try:
            self._engine.close()
        except Exception:
            log.exception("the engine could not be closed")

    def _wait(self) -> list[tuple[Job, bool]] | None:
        """What has come in, at once where there is work, otherwise as soon as something comes; None at the end."""
        is_saved = False
        with self._condition:
            while not (self._inbox or self._has_work or self._is_closing):
                if not self._condition.wait(None if is_saved else SAVE_AFTER_S) and not self._inbox:
                    self._save()
                    is_saved = True
            if self._is_closing:
                new = [job for job, is_abort in self._inbox if not is_abort]
                self._send([News(job, Usage(), is_over=True, error=closed()) for job in new])
                return None
            inbox, self._inbox = self._inbox, []
            return inbox

    def _save(self) -> None:
        self._condition.release()  # the loop must not wait for the disk
        try:
            self._engine.save_pages()
        except Exception:
            log.exception("pages could not be saved")
        finally:
            self._condition.acquire()

    def _submit(self, job: Job) -> None:
        under = UnderWay(job, time.monotonic())
        if self._is_broken:
            self._replace()
        assert not self._is_broken, "there is no engine"
        if not under.is_covered:
            self._send([News(job, Usage(), is_over=True, error=used_up())])
            return
        try:
            for choice, request in enumerate(job.requests):
                under.ids[self._engine.submit(request)] = choice
        except Exception as error:
            for id in under.ids:
                self._engine.abort(id)
            if not isinstance(error, FarthingError):
                raise
            refusal = UpstreamError(str(error), status=400, code="invalid_request")
            self._send([News(job, Usage(), is_over=True, error=refusal)])
            return
        self._jobs[job] = under
        self._by_id.update({id: (under, choice) for id, choice in under.ids.items()})

    def _abort(self, job: Job) -> None:
        under = self._jobs.get(job)
        if under is not None:
            self._stop(under)
            self._send([under.news(self._engine, time.monotonic())])

    def _stop(self, under: UnderWay) -> None:
        """End all choices of a job that have not ended yet."""
        for id in list(under.ids):
            done = self._engine.abort(id)
            assert done is not None, "the thread's books and the engine's differ"
            self._end(done)

    def _end(self, done: Done) -> None:
        under, choice = self._by_id.pop(done.request_id)
        del under.ids[done.request_id]
        under.ended[choice] = done.usage
        under.events.append((choice, done))
        if not under.ids:
            del self._jobs[under.job]

    def _step(self) -> None:
        started_s = time.monotonic()
        under_way = list(self._jobs.values())
        try:
            for event in self._engine.step():
                if isinstance(event, Done):
                    self._end(event)
                else:
                    under, choice = self._by_id[event.request_id]
                    under.events.append((choice, event))
            for under in under_way:
                if under.queue_s is None and (under.ended or not all(map(self._engine.is_waiting, under.ids))):
                    under.queue_s = started_s - under.submitted_s
                under.charge(self._engine)
            for under in under_way:  # when all are charged: some pay from one budget
                if under.ids and not under.is_covered:
                    self._cut(under)
        except Exception:
            log.exception("a step of the engine failed; the requests under way are given up")
            now_s = time.monotonic()
            self._send([under.news(self._engine, now_s) for under in under_way if not under.ids])
            self._fail(failed())
            return
        self._tell(under_way)

    def _tell(self, under_way: list[UnderWay]) -> None:
        """Those that are due, and with them those that will be before long: so one wake-up comes to serve all."""
        running = [under for under in under_way if under.queue_s is not None or under.error is not None]
        now_s, interval_s = time.monotonic(), len(running) / MAX_TOLD_PER_S
        if any(under.is_due(now_s, interval_s) for under in running):
            self._send([under.news(self._engine, now_s) for under in running if under.is_due(now_s, interval_s / 2)])

    def _cut(self, under: UnderWay) -> None:
        """Its allowance is used up; or another's use of the same budget left nothing, though it was in no step yet."""
        under.is_cut = under.queue_s is not None
        under.error = None if under.is_cut else used_up()
        self._stop(under)

    def _fail(self, error: UpstreamError) -> None:
        """Give up all jobs; another engine is made where this one cannot let go of what it has."""
        news = []
        is_sound = True
        for under in list(self._jobs.values()):
            usage = under.job.tally.usage
            try:
                usage = under.usage(self._engine)
                for id in under.ids:
                    self._engine.abort(id)
            except Exception:
                is_sound = False
            news.append(News(under.job, usage, under.queue_s, is_over=True, error=error))
        self._jobs.clear()
        self._by_id.clear()
        self._send(news)
        if not is_sound or self._engine.has_work:
            self._replace()

    def _replace(self) -> None:
        """Where that fails too (no memory, say), the next request tries again."""
        log.error("the engine is not usable any more; another takes its place")
        self._is_broken = True
        try:
            self._engine.close()
        except Exception:
            log.exception("the old engine could not be closed")
        try:
            self._engine = self._make_engine()
        except Exception:
            log.exception("another engine could not be made")
        else:
            self._is_broken = False

    def _send(self, news: list[News]) -> None:
        """One call for each loop; as a rule there is one."""
        by_loop: dict[asyncio.AbstractEventLoop, list[News]] = {}
        for one in news:
            by_loop.setdefault(one.job.loop, []).append(one)
        for loop, its in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, its)
            except RuntimeError:  # the loop is closed, and nobody will ever read these
                for one in its:
                    if (under := self._jobs.get(one.job)) is not None:
                        self._stop(under)


def _deliver(news: list[News]) -> None:
    for one in news:
        one.job.take(one)

"""The engine's thread: who owns what, aborts, allowances, crashes, and what a step costs the loop."""

import asyncio
import random

import pytest

from farthing.economics.usage import Usage
from farthing.request import Request, SamplingParams
from farthing.upstreams import UpstreamError
from farthing.upstreams.job import Job
from tests.engine.fake import greedy, naive
from tests.upstreams.gated import Made, read

PROMPT = tuple(i % 29 for i in range(50))


def asked(*token_ids, max_tokens=8, **params) -> Request:
    return greedy(*token_ids, max_tokens=max_tokens, ignore_eos=True, **params)


def text(request: Request, made: Made) -> str:
    (done,) = made.make().generate([request])
    made.engines.pop()
    return done.text


def test_an_answer_comes_whole_and_its_usage_is_the_engines():
    async def main():
        async with Made() as made:
            request = asked(*PROMPT, max_tokens=20)
            job = Job([request])
            pieces = await read(made.thread, job)
            assert "".join(piece.text for piece in pieces) == text(request, made)
            assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["length"]
            assert (job.tally.usage.input_tokens, job.tally.usage.output_tokens) == (50, 20)
            assert job.tally.usage.compute_s == pytest.approx(made.engine.stats().busy_s)

    asyncio.run(main())


def test_choices_share_the_prompt_and_it_is_counted_once():
    async def main():
        async with Made() as made:
            job = Job([asked(*PROMPT, max_tokens=n) for n in (3, 5, 7)], num_choices=3)
            pieces = await read(made.thread, job)
            assert {piece.index for piece in pieces if piece.finish_reason} == {0, 1, 2}
            usage = job.tally.usage
            assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens) == (50, 0, 15)
            assert usage.compute_s == pytest.approx(made.engine.stats().busy_s)
            assert made.engine.stats().num_cached_tokens == 2 * 48
            two = Job([asked(*PROMPT), asked(*PROMPT), asked(1, 2), asked(1, 2)], num_choices=2)
            await read(made.thread, two)
            assert two.tally.usage.input_tokens == 52

    asyncio.run(main())


def test_an_abort_while_a_prompt_is_computed_leaves_no_page_and_says_what_it_used():
    async def main():
        async with Made(is_gated=True, max_num_batched_tokens=16) as made:
            job = Job([asked(*PROMPT)])
            reader = asyncio.create_task(read(made.thread, job))
            await made.kernels.begun()
            made.kernels.permits.release()
            await made.kernels.begun()  # in its second step
            reader.cancel()
            await asyncio.sleep(0)
            made.kernels.permits.release()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert job.is_over
            assert (job.tally.usage.input_tokens, job.tally.usage.output_tokens) == (32, 0)
            assert made.engine.stats().num_steps == 2  # none after the abort
            assert made.engine.cache.num_leased == 0
            assert job.tally.usage.compute_s == pytest.approx(made.engine.stats().busy_s)

    asyncio.run(main())


def test_the_tally_is_current_while_a_prompt_is_computed():
    async def main():
        async with Made(is_gated=True, max_num_batched_tokens=16) as made:
            job = Job([asked(*PROMPT)])
            reader = asyncio.create_task(read(made.thread, job))
            seen = []
            for _ in range(3):
                await made.kernels.begun()
                await asyncio.sleep(0.005)  # longer than the interval at which one stream is told
                seen.append(job.tally.usage.input_tokens)
                made.kernels.permits.release()
            made.kernels.is_gated = False
            made.kernels.permits.release(100)
            await reader
            assert seen == [0, 16, 32]

    asyncio.run(main())


def test_a_cancelled_reader_is_cancelled_only_when_its_usage_is_known():
    async def main():
        async with Made(is_gated=True) as made:
            job = Job([asked(*PROMPT)])
            reader = asyncio.create_task(read(made.thread, job))
            await made.kernels.begun()
            for _ in range(3):
                reader.cancel()
                await asyncio.sleep(0.01)
                assert not reader.done()
            made.kernels.permits.release()
            with pytest.raises(asyncio.CancelledError):
                await reader
            assert job.is_over

    asyncio.run(main())


class Most:
    """An allowance of so many output tokens."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.charged = [Usage()]

    def charge(self, usage: Usage) -> None:
        self.charged.append(usage)

    def covers(self) -> bool:
        return self.charged[-1].output_tokens < self.num


def test_an_allowance_that_is_used_up_ends_the_answer_after_that_step():
    async def main():
        async with Made() as made:
            most = Most(5)
            cut, whole = Job([asked(*PROMPT, max_tokens=30)], allowance=most), Job([asked(1, max_tokens=30)])
            pieces, others = await asyncio.gather(read(made.thread, cut), read(made.thread, whole))
            assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["length"]
            assert (cut.tally.usage.output_tokens, cut.tally.is_cut) == (5, True)
            assert [usage.output_tokens for usage in most.charged] == [0, 1, 2, 3, 4, 5]
            assert (whole.tally.usage.output_tokens, whole.tally.is_cut) == (30, False)
            assert others

    asyncio.run(main())


def test_an_allowance_can_end_a_prompt():
    class Nothing(Most):
        def covers(self) -> bool:
            return self.charged[-1].compute_s == 0

    async def main():
        async with Made(max_num_batched_tokens=16) as made:
            job = Job([asked(*PROMPT)], allowance=Nothing(0))
            pieces = await read(made.thread, job)
            assert [(piece.text, piece.finish_reason) for piece in pieces] == [("", "length")]
            assert (job.tally.usage.input_tokens, job.tally.is_cut) == (16, True)

    asyncio.run(main())


@pytest.mark.parametrize("failure", [RuntimeError("our bug"), MemoryError()])
def test_a_step_that_fails_fails_its_requests_and_the_next_are_served(failure):
    async def main():
        async with Made() as made:
            made.kernels.failures.append(failure)
            jobs = [Job([asked(*PROMPT, i)]) for i in range(3)]
            found = await asyncio.gather(*(read(made.thread, job) for job in jobs), return_exceptions=True)
            assert all(isinstance(error, UpstreamError) and error.status == 500 for error in found)
            assert "our bug" not in str(found[0])
            assert await read(made.thread, Job([asked(*PROMPT)]))
            assert len(made.engines) == 1

    asyncio.run(main())


def test_an_engine_that_cannot_let_go_is_replaced():
    async def main():
        async with Made() as made:
            first = made.engine

            def abort(_request_id):
                raise RuntimeError("broken too")

            first.abort = abort
            made.kernels.failures.append(RuntimeError("our bug"))
            with pytest.raises(UpstreamError, match="engine failed"):
                await read(made.thread, Job([asked(*PROMPT)]))
            request = asked(*PROMPT)
            pieces = await read(made.thread, Job([request]))
            assert "".join(piece.text for piece in pieces) == text(request, made)
            assert made.engine is not first

    asyncio.run(main())


def test_a_submission_that_fails_fails_nobody_for_ever():
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("our bug")

    async def main():
        async with Made() as made:
            broken = Request(token_ids=(1, 2), make_constraint=Broken)
            with pytest.raises(UpstreamError, match="engine failed"):
                await read(made.thread, Job([asked(1), broken]))
            assert await read(made.thread, Job([asked(3)]))
            assert not made.engine.has_work
            assert len(made.engines) == 1

    asyncio.run(main())


def test_what_the_engine_refuses_is_the_clients_fault():
    async def main():
        async with Made() as made:
            with pytest.raises(UpstreamError, match="0 to 39") as caught:
                await read(made.thread, Job([asked(1), asked(99)]))
            assert caught.value.status == 400
            assert made.engine.load().num_waiting == 0

    asyncio.run(main())


def test_too_many_are_told_to_come_back():
    async def main():
        async with Made(is_gated=True, max_under_way=3) as made:
            readers = [asyncio.create_task(read(made.thread, Job([asked(i)]))) for i in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(UpstreamError) as caught:
                await read(made.thread, Job([asked(5)]))
            assert (caught.value.status, caught.value.is_retryable) == (503, True)
            assert caught.value.retry_after_s
            made.kernels.is_gated = False
            made.kernels.permits.release(100)
            await asyncio.gather(*readers)
            assert await read(made.thread, Job([asked(5)]))
            assert await read(made.thread, Job([asked(i) for i in range(4)]))  # more than there is room for, but alone

    asyncio.run(main())


def test_closing_fails_what_is_under_way_and_what_comes_later():
    async def main():
        async with Made(is_gated=True) as made:
            job = Job([asked(*PROMPT)])
            reader = asyncio.create_task(read(made.thread, job))
            await made.kernels.begun()
            closing = asyncio.create_task(made.thread.aclose())
            await asyncio.sleep(0.01)
            made.kernels.permits.release()
            for doomed in (reader, read(made.thread, Job([asked(1)]))):
                with pytest.raises(UpstreamError, match="shutting down") as caught:
                    await doomed
                assert caught.value.status == 503
            await closing
            assert job.tally.usage.input_tokens == 50

    asyncio.run(main())


def test_a_step_wakes_the_loop_once_whatever_the_number_of_streams():
    async def main():
        async with Made() as made:
            loop = asyncio.get_running_loop()
            wakes, original = [], loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *args: wakes.append(args) or original(*args)
            jobs = [Job([asked(i, *PROMPT, max_tokens=20)]) for i in range(10)]
            await asyncio.gather(*(read(made.thread, job) for job in jobs))
            loop.call_soon_threadsafe = original
            assert len(wakes) <= made.engine.stats().num_steps

    asyncio.run(main())


def _listen(job: Job) -> list[int]:
    """How many events the thread tells it at a time, however slowly they are read."""
    counts, take = [], job.take

    def heard(news):
        counts.extend([len(news.events)] if news.events else [])
        take(news)

    job.take = heard
    return counts


def test_of_many_streams_each_gets_several_tokens_at_a_time_but_the_first_alone():
    async def main():
        async with Made() as made:
            jobs = [Job([asked(i, *PROMPT, max_tokens=30)]) for i in range(16)]
            told = [_listen(job) for job in jobs]
            found = await asyncio.gather(*(read(made.thread, job) for job in jobs))
            assert all(counts[0] == 1 for counts in told)
            assert max(map(max, told)) > 1
            for job, pieces in zip(jobs, found, strict=True):
                assert "".join(piece.text for piece in pieces) == text(job.requests[0], made)

    asyncio.run(main())


def test_a_call_whose_budget_others_used_up_before_its_first_step_is_refused():
    async def main():
        async with Made(max_num_seqs=1) as made:
            with pytest.raises(UpstreamError) as caught:
                await read(made.thread, Job([asked(*PROMPT)], allowance=Most(0)))
            assert (caught.value.status, caught.value.code) == (429, "budget_exceeded")
            assert made.engine.stats().num_steps == 0
            common = Most(6)
            first = Job([asked(*PROMPT, max_tokens=30)], allowance=common)
            waits = Job([asked(1, max_tokens=30)], allowance=common)
            pieces, error = await asyncio.gather(
                read(made.thread, first), read(made.thread, waits), return_exceptions=True
            )
            assert pieces[-1].finish_reason == "length"
            assert (first.tally.usage.output_tokens, first.tally.is_cut) == (6, True)
            assert (error.code, waits.tally.usage, waits.tally.is_cut) == ("budget_exceeded", Usage(), False)
            assert await read(made.thread, Job([asked(2)]))

    asyncio.run(main())


def test_an_allowance_that_fails_fails_only_whom_it_must():
    class Broken(Most):
        def charge(self, usage: Usage) -> None:
            raise RuntimeError(f"our bug at {usage}")

    async def main():
        async with Made() as made:
            ended, broken = Job([asked(1, max_tokens=1)]), Job([asked(2, max_tokens=9)], allowance=Broken(9))
            pieces, error = await asyncio.gather(
                read(made.thread, ended), read(made.thread, broken), return_exceptions=True
            )
            assert pieces[-1].finish_reason == "length"
            assert isinstance(error, UpstreamError)
            assert await read(made.thread, Job([asked(3)]))

    asyncio.run(main())


def test_a_slow_reader_gets_pieces_joined():
    async def main():
        async with Made() as made:
            request = asked(*PROMPT, max_tokens=60)
            job = Job([request])
            made.thread.submit(job)
            while not job.is_over:
                await asyncio.sleep(0.001)
            (piece,) = await job.pieces()
            assert (piece.text, piece.finish_reason) == (text(request, made), "length")
            assert await job.pieces() == []
            await made.thread.end(job)

    asyncio.run(main())


def test_a_loop_that_is_gone_takes_its_jobs_with_it():
    made = Made(is_gated=True)

    async def leave():
        made.thread.submit(Job([asked(*PROMPT, max_tokens=100)]))
        await made.kernels.begun()

    asyncio.run(leave())

    async def main():
        async with made:
            made.kernels.is_gated = False
            made.kernels.permits.release(1000)
            assert await read(made.thread, Job([asked(1)]))
            assert not made.engine.has_work

    asyncio.run(main())


def test_pages_are_saved_when_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr("farthing.upstreams.engine_thread.SAVE_AFTER_S", 0.01)

    async def main():
        async with Made(cold_bytes=1 << 20) as made:
            await read(made.thread, Job([asked(*PROMPT)]))
            for _ in range(500):
                if made.engine.cold_stats().num_pages:
                    break
                await asyncio.sleep(0.01)
            assert made.engine.cold_stats().num_pages > 0

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_clients_that_come_and_go_get_the_naive_answers_and_leave_nothing(seed):
    rng = random.Random(seed)

    async def client(made: Made, results: list) -> None:
        await asyncio.sleep(rng.random() * 0.05)
        prompt = (*PROMPT[: rng.randint(1, 50)], rng.randint(0, 3))
        request = asked(*prompt, max_tokens=rng.randint(1, 40), salt=rng.choice(["", "other"]))
        job = Job([request] * rng.choice([1, 1, 3]), num_choices=3)
        task = asyncio.create_task(read(made.thread, job))
        if rng.random() < 0.4:
            await asyncio.sleep(rng.random() * 0.05)
            task.cancel()
        try:
            pieces = await task
        except asyncio.CancelledError:
            assert job.is_over or not job.tally.usage.input_tokens  # never submitted, or let go
            pieces = None
        results.append((job, pieces))

    async def main():
        async with Made(num_pages=24, max_num_batched_tokens=32) as made:
            results: list = []
            await asyncio.gather(*(client(made, results) for _ in range(50)))
            assert made.engine.load().num_running == made.engine.load().num_waiting == 0
            texts: dict[tuple, str] = {}
            for job, pieces in results:
                request, usage = job.requests[0], job.tally.usage
                if pieces is None:
                    assert usage.input_tokens <= len(request.token_ids)
                    assert usage.output_tokens <= len(job.requests) * request.params.max_tokens
                    continue
                key = (request.token_ids, request.params.max_tokens)
                if key not in texts:
                    texts[key] = text(request, made)
                for choice in range(len(job.requests)):
                    assert "".join(piece.text for piece in pieces if piece.index == choice) == texts[key]
                expected = naive(request.token_ids, SamplingParams(temperature=0, max_tokens=key[1], ignore_eos=True))
                assert usage.output_tokens == len(job.requests) * len(expected)
            total = sum((job.tally.usage for job, _ in results), Usage())
            assert total.compute_s == pytest.approx(made.engine.stats().busy_s)

    asyncio.run(main())

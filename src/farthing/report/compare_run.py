"""Asks one model all rows: so many at a time, each answer judged, priced and timed as it comes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from farthing.economics.charge import Pricer
from farthing.ledger.attempt import Attempt
from farthing.ledger.ids import new_id, now_us
from farthing.report.compare_answers import Answer, answer_key, judged
from farthing.report.compare_task import TaskRow
from farthing.upstreams import Call, Chunk, Tally, Upstream, UpstreamError

__all__ = ["Asking", "Candidate", "ask_all", "body_of", "key_of"]

GIVE_UP = 5  # answers that all failed, before any that did not: the model cannot be asked
LIMITS = ("max_tokens", "max_completion_tokens")
MAX_ERROR = 300  # letters kept


@dataclass(frozen=True)
class Candidate:
    """open makes the upstream ready; what that takes (loading a model) is in no latency."""

    name: str  # as the user wrote it
    model: str  # as the upstream knows it
    is_local: bool
    open: Callable[[], AbstractAsyncContextManager[Upstream]]


@dataclass(frozen=True)
class Asking:
    """What is put beside each row's own fields, where those do not say otherwise."""

    temperature: float | None = 0.0  # None: the model's default
    seed: int | None = None
    max_tokens: int | None = 256
    concurrency: int = 1


def body_of(row: TaskRow, candidate: Candidate, asking: Asking) -> dict[str, Any]:
    """A local model writes one of the choices and nothing else; a hosted one is asked as the row says."""
    body = dict(row.body)
    for name, value in (("temperature", asking.temperature), ("seed", asking.seed)):
        if value is not None:
            body.setdefault(name, value)
    if candidate.is_local:
        body.setdefault("logprobs", True)
        if row.choices and "response_format" not in body and "tools" not in body:
            schema = {"type": "string", "enum": list(row.choices)}
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}}
    return body


def key_of(row: TaskRow, candidate: Candidate, asking: Asking) -> str:
    return answer_key(candidate.name, body_of(row, candidate, asking), _limit(row, asking))


def _limit(row: TaskRow, asking: Asking) -> int | None:
    """Not a field of the body: providers name it differently, and their upstreams know how."""
    return None if any(name in row.body for name in LIMITS) else asking.max_tokens


async def ask_all(
    candidate: Candidate,
    upstream: Upstream,
    rows: Sequence[TaskRow],
    asking: Asking,
    pricer: Pricer,
    told: Callable[[Answer], None],
) -> str | None:
    """Each answer is told as it comes. None, or why it was given up: the first answers all failed."""
    waiting: Iterator[TaskRow] = iter(rows)
    failed: list[str] = []
    has_answered = False

    async def work() -> None:
        nonlocal has_answered
        for row in waiting:
            answer = await _ask(candidate, upstream, row, asking, pricer)
            told(answer)
            has_answered = has_answered or answer.error is None
            if answer.error is not None:
                failed.append(answer.error)
            if not has_answered and len(failed) >= GIVE_UP:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(asking.concurrency, len(rows))):
            group.create_task(work())
    return failed[-1] if failed and not has_answered else None


async def _ask(candidate: Candidate, upstream: Upstream, row: TaskRow, asking: Asking, pricer: Pricer) -> Answer:
    body = body_of(row, candidate, asking)
    call = Call(
        id=new_id(now_us()),
        wire="chat",
        body=body,
        model=candidate.model,
        max_output_tokens=_limit(row, asking),
        endpoint="chat",
        asked_model=candidate.name,
        route="compare",
    )
    started_us = now_us()
    tally, attempt = Tally(), Attempt(call.id, 0, started_us, time.monotonic_ns())
    chunks: list[Chunk] = []
    error: str | None = None
    try:
        async for chunk in _closed(upstream.stream(call, tally)):
            chunks.append(chunk)
    except UpstreamError as failure:
        error = f"{failure.code}: {' '.join(str(failure).split())}"[:MAX_ERROR]
        attempt.status, attempt.error = "error", failure.code
    # Priced, timed and counted as the ledger does it, whether there is one or not.
    used = attempt.row(call, tally, pricer, time.monotonic_ns(), call.route)
    logprobs = [token.logprob for chunk in chunks for token in chunk.logprobs]
    answer = Answer(
        key=key_of(row, candidate, asking),
        id=row.id,
        model=candidate.name,
        prompt=row.prompt,
        answer="".join(chunk.text for chunk in chunks if chunk.index == 0),
        is_right=None,
        error=error,
        cost_pico=used.cost_pico,
        latency_us=used.total_us,
        input_tokens=used.input_tokens,
        cache_read_tokens=used.cache_read_tokens,
        output_tokens=used.output_tokens,
        logprob_mean=round(sum(logprobs) / len(logprobs), 6) if logprobs else None,
        logprob_least=round(min(logprobs), 6) if logprobs else None,
    )
    return judged(answer, row)


async def _closed(chunks: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    """Closed whatever ends the reading, so that the tally is final."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()

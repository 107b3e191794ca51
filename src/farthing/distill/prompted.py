"""The base model without any training, told the labels in its prompt and held to them by a grammar: what a request
costs before anything is distilled, and how often it is right."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal

from farthing.distill.data import Example
from farthing.economics.charge import Pricer
from farthing.economics.cost import HostCost
from farthing.economics.prices import PriceBook
from farthing.errors import InvalidRequest
from farthing.report.compare_answers import Answer
from farthing.report.compare_run import Asking, Candidate, ask_all
from farthing.report.compare_task import TaskRow
from farthing.server.building import make_upstream, start_upstream
from farthing.server.config import UpstreamEntry
from farthing.upstreams import Upstream
from farthing.upstreams.local_model import served_name

__all__ = ["Prompted", "ask_prompted", "prompted_rows"]

CONCURRENCY = 16  # requests at once: the engine's cheapest way
_INSTRUCTION = "Say which category the user's message belongs to. Answer with the category's name only. Categories: "


@dataclass(frozen=True)
class Prompted:
    num_rows: int
    num_right: int
    seconds: float  # of this machine, a request
    num_tokens: float  # read and written, a request; those from the cache counted


def prompted_rows(examples: Sequence[Example], labels: Sequence[str]) -> list[TaskRow]:
    """As `farthing compare` asks them: all labels in the system prompt, one of them the answer."""
    system = {"role": "system", "content": _INSTRUCTION + ", ".join(labels)}
    return [
        TaskRow(
            example.id,
            {"messages": [system, {"role": "user", "content": example.text}], "max_tokens": 64},
            (example.answer,),
            tuple(labels),
        )
        for example in examples
    ]


async def ask_prompted(
    model: str,
    rows: Sequence[TaskRow],
    host: HostCost,
    num_threads: int,
    told: Callable[[], None] | None = None,
) -> Prompted:
    """Ask a local model. Raises InvalidRequest where it cannot be asked."""
    options: dict[str, object] = {"models": [model], "speculation": "off", "threads": num_threads}
    upstream: Upstream = make_upstream(UpstreamEntry("prompted", "local", options), host, "the prompted model")
    answers: list[Answer] = []

    def take(answer: Answer) -> None:
        answers.append(answer)
        if told is not None:
            told()

    try:
        await start_upstream(upstream)
        candidate = Candidate(model, served_name(model), True, lambda: nullcontext(upstream))
        asking = Asking(temperature=0.0, concurrency=CONCURRENCY)
        stopped = await ask_all(candidate, upstream, rows, asking, Pricer(PriceBook(), host), take)
    finally:
        await upstream.aclose()
    good = [answer for answer in answers if answer.error is None]
    if not good:
        raise InvalidRequest(f"{model} could not be asked as a prompted model: {stopped}")
    usd = Decimal(sum(answer.cost_pico or 0 for answer in good)) / 10**12
    per_second = host.usd(3600) / 3600
    tokens = sum((answer.input_tokens or 0) + (answer.output_tokens or 0) for answer in good)
    seconds = float(usd / per_second) if per_second else 0.0
    return Prompted(len(good), sum(bool(a.is_right) for a in good), seconds / len(good), tokens / len(good))

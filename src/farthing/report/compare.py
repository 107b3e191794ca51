"""Which model to take for a task: accuracy, dollars, latency, and the cheapest that is not worse than the best.

All models answered the same prompts, so they are compared in pairs: what counts are the rows where one was right and
the other was not. An error counts as a wrong answer; a price that is not known stays unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from farthing.economics.charge import usd
from farthing.report.compare_answers import Answer
from farthing.report.compare_stats import mcnemar, paired_interval, rows_needed, wilson

__all__ = ["Against", "Comparison", "ModelResult", "Verdict", "compare"]

PICO_USD = Decimal("1e-12")


@dataclass(frozen=True)
class ModelResult:
    name: str
    num_rows: int
    num_right: int
    interval: tuple[float, float]  # of the accuracy, 95 %
    usd_per_1000: Decimal | None  # requests; None: a price is not known
    p50_us: int | None  # of answers, without errors
    p95_us: int | None
    input_tokens: float | None  # means of a request
    cache_read_tokens: float | None
    output_tokens: float | None
    num_errors: int
    is_on_front: bool  # nothing is both cheaper and more accurate
    stopped: str | None = None  # why it was given up

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_rows if self.num_rows else 0.0


@dataclass(frozen=True)
class Against:
    """A model beside the best one, on the rows that all have answered."""

    name: str
    only_best: int  # rows that only the best has right
    only_this: int
    p_value: float  # exact McNemar test, one-sided
    is_worse: bool  # p_value is below alpha
    lead: float  # of the best: difference of the accuracies
    lead_interval: tuple[float, float]  # 95 %
    rows_needed: int | None  # where the best leads and the test cannot tell; None elsewhere


@dataclass(frozen=True)
class Verdict:
    best: str
    cheapest: str | None  # not significantly worse; None where no such model has a known price
    num_rows: int
    alpha: float
    against: tuple[Against, ...]

    def of(self, name: str) -> Against | None:
        return next((one for one in self.against if one.name == name), None)


@dataclass(frozen=True)
class Comparison:
    task: str
    num_rows: int
    models: tuple[ModelResult, ...]  # the cheapest first, unknown prices last
    verdict: Verdict | None  # None without a row that all have answered
    is_partial: bool = False  # interrupted
    notes: tuple[str, ...] = ()


def compare(
    task: str,
    num_rows: int,
    answers: Mapping[str, Sequence[Answer]],
    alpha: float,
    stopped: Mapping[str, str],
    *,
    is_partial: bool = False,
    notes: Sequence[str] = (),
) -> Comparison:
    """answers by model, each row once. Models that were given up are shown and take no part in the verdict."""
    results = [_result(name, given, stopped.get(name)) for name, given in answers.items()]
    front = _front(results)
    models = [_on_front(result, result.name in front) for result in results]
    in_order = sorted(models, key=lambda m: (m.usd_per_1000 is None, m.usd_per_1000 or 0, -m.accuracy))
    usable = {name: given for name, given in answers.items() if given and name not in stopped}
    return Comparison(task, num_rows, tuple(in_order), _verdict(usable, alpha), is_partial, tuple(notes))


def _result(name: str, answers: Sequence[Answer], stopped: str | None) -> ModelResult:
    good = [answer for answer in answers if answer.error is None]
    latencies = sorted(answer.latency_us for answer in good)
    num_right = sum(answer.is_right is True for answer in answers)
    return ModelResult(
        name=name,
        num_rows=len(answers),
        num_right=num_right,
        interval=wilson(num_right, len(answers)),
        usd_per_1000=_usd_per_1000(answers),
        p50_us=_quantile(latencies, 0.5),
        p95_us=_quantile(latencies, 0.95),
        input_tokens=_mean([answer.input_tokens for answer in good]),
        cache_read_tokens=_mean([answer.cache_read_tokens for answer in good]),
        output_tokens=_mean([answer.output_tokens for answer in good]),
        num_errors=len(answers) - len(good),
        is_on_front=False,
        stopped=stopped,
    )


def _on_front(result: ModelResult, is_on_front: bool) -> ModelResult:
    return replace(result, is_on_front=is_on_front)


def _usd_per_1000(answers: Sequence[Answer]) -> Decimal | None:
    costs = [answer.cost_pico for answer in answers]
    known = [cost for cost in costs if cost is not None]
    if not costs or len(known) < len(costs):
        return None
    return (usd(sum(known)) * 1000 / len(costs)).quantize(PICO_USD)


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _quantile(ordered: Sequence[int], part: float) -> int | None:
    """The nearest rank: a latency that was measured."""
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)] if ordered else None


def _front(results: Sequence[ModelResult]) -> set[str]:
    """Models with a known price that none beats in price or accuracy without losing in the other."""
    known = [(r.usd_per_1000, r.accuracy, r.name) for r in results if r.usd_per_1000 is not None and not r.stopped]

    def is_beaten(cost: Decimal, accuracy: float) -> bool:
        return any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a, _ in known)

    return {name for cost, accuracy, name in known if not is_beaten(cost, accuracy)}


def _verdict(answers: Mapping[str, Sequence[Answer]], alpha: float) -> Verdict | None:
    by_id = {name: {answer.id: answer for answer in given} for name, given in answers.items()}
    common = sorted(set.intersection(*map(set, by_id.values()))) if by_id else []
    if not common:
        return None
    right = {name: [found[id].is_right is True for id in common] for name, found in by_id.items()}
    cost = {name: _usd_per_1000([found[id] for id in common]) for name, found in by_id.items()}
    best = min(right, key=lambda name: (-sum(right[name]), cost[name] is None, cost[name] or 0))
    against = tuple(_against(name, right[best], right[name], alpha) for name in right if name != best)
    good = [best, *(one.name for one in against if not one.is_worse)]
    priced = [(price, -sum(right[name]), name) for name in good if (price := cost[name]) is not None]
    return Verdict(best, min(priced)[2] if priced else None, len(common), alpha, against)


def _against(name: str, best: Sequence[bool], this: Sequence[bool], alpha: float) -> Against:
    only_best = sum(b and not t for b, t in zip(best, this, strict=True))
    only_this = sum(t and not b for b, t in zip(best, this, strict=True))
    p_value = mcnemar(only_best, only_this)
    return Against(
        name=name,
        only_best=only_best,
        only_this=only_this,
        p_value=p_value,
        is_worse=p_value < alpha,
        lead=(only_best - only_this) / len(best),
        lead_interval=paired_interval(only_best, only_this, len(best)),
        rows_needed=None if p_value < alpha else rows_needed(only_best, only_this, len(best), alpha),
    )

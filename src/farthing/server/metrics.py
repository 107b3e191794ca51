"""/metrics for Prometheus. Names are vLLM's where it has one, so that its dashboards work; ours begin with farthing_.

Labels are few and bounded: never a key, a user or a tag, and models above MAX_MODELS are counted as "other". All of it
belongs to the event loop, so nothing is locked and a finished request costs a few microseconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from farthing.server.histogram import Histogram
from farthing.server.metrics_families import (
    CacheStats,
    EngineSource,
    LedgerStats,
    RouterSource,
    ServingSource,
    cache_families,
    engine_families,
    ledger_families,
    router_families,
    serving_families,
)
from farthing.upstreams import Receipt

__all__ = ["Metrics"]

MAX_MODELS = 100
FINISHED = {"stop": "stop", "tool_calls": "stop", "length": "length", "content_filter": "stop"}
FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
PER_TOKEN_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20)
REQUEST_S = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)


@dataclass(slots=True)
class _Model:
    """What was used of one model, by all its calls."""

    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    cost_pico: int = 0
    baseline_pico: int = 0
    num_unpriced: int = 0
    num_hits: int = 0
    num_feedback: int = 0
    num_scored: int = 0
    score: float = 0.0
    finished: dict[str, int] = field(default_factory=dict)
    first_token_s: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN_S))
    per_token_s: Histogram = field(default_factory=lambda: Histogram(PER_TOKEN_S))
    request_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_S))


class Metrics:
    """engines, ledger, cache, routers and serving are asked when Prometheus asks."""

    def __init__(
        self,
        engines: Sequence[EngineSource] = (),
        ledger: Callable[[], LedgerStats] | None = None,
        cache: Callable[[], CacheStats] | None = None,
        routers: Mapping[str, RouterSource] | None = None,
        serving: Sequence[ServingSource] = (),
    ) -> None:
        self._engines, self._ledger, self._cache, self._routers = engines, ledger, cache, routers
        self._serving = serving
        self._models: dict[str, _Model] = {}
        self._requests: dict[tuple[str, int], int] = {}
        self._overhead_s = Histogram(OVERHEAD_S)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(
        self,
        endpoint: str,
        status: int,
        total_s: float,
        receipts: Sequence[Receipt] = (),
        *,
        finish_reason: str | None = None,
        first_token_s: float | None = None,
        overhead_s: float | None = None,
    ) -> None:
        """One finished request, however it ended. status is HTTP's (499: its client went away before the end);
        overhead_s is what of total_s was spent here and not upstream."""
        key = (endpoint, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if overhead_s is not None:
            self._overhead_s.add(overhead_s)
        for receipt in receipts:
            self._use(receipt)
        if not receipts:
            return
        last, model = receipts[-1], self._model(receipts[-1].model)
        reason = FINISHED.get(finish_reason or "stop", "stop") if last.status == "ok" else _unfinished(last.status)
        model.finished[reason] = model.finished.get(reason, 0) + 1
        model.request_s.add(total_s)
        if first_token_s is not None:
            model.first_token_s.add(first_token_s)
            if last.usage.output_tokens > 1:
                model.per_token_s.add((total_s - first_token_s) / (last.usage.output_tokens - 1))

    def feedback(self, model: str, score: float | None) -> None:
        """What somebody said of a model's answer; None: that another model's would have been better, or that not."""
        found = self._model(model)
        found.num_feedback += 1
        if score is not None:
            found.num_scored += 1
            found.score += score

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics where the Accept header asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def describe(self) -> list[Metric]:
        """Nothing to check against other collectors: the registry has only this one."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_models()
        labels = ["endpoint", "status"]
        requests = CounterMetricFamily("farthing_requests", "Requests by API and HTTP status", labels=labels)
        for (endpoint, status), count in self._requests.items():
            requests.add_metric([endpoint, str(status)], count)
        yield requests
        overhead = HistogramMetricFamily("farthing_overhead_seconds", "Time of a request that no upstream took")
        overhead.add_metric([], self._overhead_s.buckets(), self._overhead_s.total)
        yield overhead
        yield from engine_families(self._engines)
        if self._serving:
            yield from serving_families(self._serving)
        if self._ledger is not None:
            yield from ledger_families(self._ledger())
        if self._cache is not None:
            yield from cache_families(self._cache())
        if self._routers:
            yield from router_families(self._routers)

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            name = name if len(self._models) < MAX_MODELS else "other"
            model = self._models.setdefault(name, _Model())
        return model

    def _use(self, receipt: Receipt) -> None:
        """Tokens of an answer from the response cache were used by nobody; what they would have cost was saved."""
        model, usage = self._model(receipt.model), receipt.usage
        if receipt.cache is None:
            model.num_input_tokens += usage.input_tokens
            model.num_cached_tokens += usage.cache_read_tokens
            model.num_output_tokens += usage.output_tokens
        else:
            model.num_hits += 1
        if receipt.cost_pico is None:
            model.num_unpriced += 1
        model.cost_pico += receipt.cost_pico or 0
        if receipt.status != "discarded":  # without farthing nobody would have asked for it
            model.baseline_pico += receipt.baseline_pico or 0

    def _collect_models(self) -> Iterator[Metric]:
        models = self._models.items()
        for name, text, attribute, unit in (
            ("vllm:prompt_tokens", "Input tokens, cached ones included", "num_input_tokens", 1.0),
            ("vllm:generation_tokens", "Output tokens", "num_output_tokens", 1.0),
            ("vllm:prefix_cache_queries", "Input tokens looked up in a cache", "num_input_tokens", 1.0),
            ("vllm:prefix_cache_hits", "Input tokens read from a cache", "num_cached_tokens", 1.0),
            ("farthing_cost_usd", "Cost, as far as prices are known", "cost_pico", 1e12),
            ("farthing_baseline_cost_usd", "Cost without any saving", "baseline_pico", 1e12),
            ("farthing_unpriced", "Attempts whose price is not known", "num_unpriced", 1.0),
            ("farthing_response_cache_hits", "Answers from the response cache", "num_hits", 1.0),
            ("farthing_feedback", "Answers that somebody judged", "num_feedback", 1.0),
            ("farthing_feedback_scored", "Those of them with a score", "num_scored", 1.0),
            ("farthing_feedback_score", "The sum of the scores, 0 to 1 each", "score", 1.0),
        ):
            family = CounterMetricFamily(name, text, labels=["model_name"])
            for label, model in models:
                family.add_metric([label], getattr(model, attribute) / unit)
            yield family
        success = CounterMetricFamily(
            "vllm:request_success", "Requests ended", labels=["model_name", "finished_reason"]
        )
        for label, model in models:
            for reason, count in model.finished.items():
                success.add_metric([label, reason], count)
        yield success
        for name, text, attribute in (
            ("vllm:time_to_first_token_seconds", "Time to the first token", "first_token_s"),
            ("vllm:time_per_output_token_seconds", "Time per further token", "per_token_s"),
            ("vllm:e2e_request_latency_seconds", "Time of a whole request", "request_s"),
        ):
            timed = HistogramMetricFamily(name, text, labels=["model_name"])
            for label, model in models:
                histogram: Histogram = getattr(model, attribute)
                timed.add_metric([label], histogram.buckets(), histogram.total)
            yield timed


def _unfinished(status: str) -> str:
    return "abort" if status in ("aborted", "killed") else "error"

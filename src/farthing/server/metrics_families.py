"""What /metrics tells of others: engines, the ledger, the response cache. Read when Prometheus asks, kept nowhere."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = [
    "CacheStats",
    "EngineSource",
    "LedgerStats",
    "RouterSource",
    "ServingSource",
    "cache_families",
    "engine_families",
    "ledger_families",
    "router_families",
    "serving_families",
]


class EngineLoad(Protocol):
    """What an engine holds at this moment."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def used_share(self) -> float | None: ...


class EngineStats(Protocol):
    """What an engine has done."""

    @property
    def busy_s(self) -> float: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_draft_tokens(self) -> int: ...
    @property
    def num_accepted_tokens(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def num_experts_read(self) -> int: ...
    @property
    def num_page_faults(self) -> int: ...
    @property
    def experts_per_step(self) -> float: ...


class LedgerStats(Protocol):
    """What the books wait for (ledger.BooksStats)."""

    @property
    def num_queued(self) -> int: ...
    @property
    def num_committed_rows(self) -> int: ...
    @property
    def num_refused(self) -> int: ...
    @property
    def num_over_budget(self) -> int: ...
    @property
    def num_spooled(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_lost(self) -> int: ...
    @property
    def is_away(self) -> bool: ...


class CacheStats(Protocol):
    """What the response cache holds."""

    @property
    def num_entries(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...


class Serving(Protocol):
    """Which version of a model answers (upstreams.classifier.Serving)."""

    @property
    def version(self) -> str: ...
    @property
    def num_swaps(self) -> int: ...
    @property
    def num_refused(self) -> int: ...
    @property
    def num_by_stage(self) -> Mapping[str, int]: ...


class DriftFound(Protocol):
    """How far live prompts are from those that a router was trained on."""

    @property
    def psi(self) -> Mapping[str, float]: ...
    @property
    def alarms(self) -> tuple[str, ...]: ...


class RouterStats(Protocol):
    """What a router has done (router.RouterStats)."""

    @property
    def requests(self) -> Mapping[tuple[str, str], int]: ...
    @property
    def num_escalated(self) -> int: ...
    @property
    def num_drafts(self) -> int: ...
    @property
    def drift(self) -> DriftFound | None: ...
    @property
    def num_sessions(self) -> int: ...
    @property
    def num_refused(self) -> int: ...


RouterSource = Callable[[], RouterStats]
EngineSource = Callable[[], Mapping[str, tuple[EngineLoad, EngineStats]]]  # by model: LocalUpstream.stats

ServingSource = Callable[[], Mapping[str, Serving]]  # by model


def engine_families(sources: Sequence[EngineSource]) -> Iterator[Metric]:
    found = [(name, *both) for source in sources for name, both in source().items()]
    for name, text, attribute in (
        ("vllm:num_requests_running", "Sequences in the batch", "num_running"),
        ("vllm:num_requests_waiting", "Sequences that wait", "num_waiting"),
        ("vllm:kv_cache_usage_perc", "Share of the pages in use, 0 to 1", "used_share"),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["model_name"])
        for model, load, _ in found:
            if (value := getattr(load, attribute)) is not None:  # a classifier has no pages
                gauge.add_metric([model], value)
        yield gauge
    for name, text, attribute in (
        ("vllm:num_preemptions", "Sequences that had to make room", "num_preemptions"),
        ("vllm:spec_decode_num_draft_tokens", "Tokens guessed", "num_draft_tokens"),
        ("vllm:spec_decode_num_accepted_tokens", "Guesses that were right", "num_accepted_tokens"),
        ("farthing_engine_busy_seconds", "Time in steps", "busy_s"),
        ("farthing_engine_steps", "Batches run", "num_steps"),
        ("farthing_experts_read", "Distinct experts, each layer and step counting its own", "num_experts_read"),
        ("farthing_expert_page_faults", "Waits for the disk that holds experts", "num_page_faults"),
    ):
        counter = CounterMetricFamily(name, text, labels=["model_name"])
        for model, _, stats in found:
            counter.add_metric([model], getattr(stats, attribute))
        yield counter

    experts = GaugeMetricFamily(
        "farthing_experts_per_step", "Distinct experts of a layer and step, mean since the start", labels=["model_name"]
    )
    for model, _, stats in found:
        experts.add_metric([model], stats.experts_per_step)
    yield experts


def serving_families(sources: Sequence[ServingSource]) -> Iterator[Metric]:
    found = [pair for source in sources for pair in source().items()]
    version = GaugeMetricFamily(
        "farthing_model_version", "1 for the version that answers", labels=["model_name", "version"]
    )
    swaps = CounterMetricFamily("farthing_model_swaps", "Times that another version took over", labels=["model_name"])
    refused = CounterMetricFamily(
        "farthing_model_versions_refused", "Versions that could not be opened or found", labels=["model_name"]
    )
    answers = CounterMetricFamily(
        "farthing_cascade_answers", "Answers by the stage that gave them", labels=["model_name", "stage"]
    )
    for model, serving in found:
        version.add_metric([model, serving.version], 1)
        swaps.add_metric([model], serving.num_swaps)
        refused.add_metric([model], serving.num_refused)
        for stage, number in serving.num_by_stage.items():
            answers.add_metric([model, stage], number)
    yield from (version, swaps, refused, answers)


def cache_families(stats: CacheStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("farthing_response_cache_entries", "Answers stored", stats.num_entries)
    yield GaugeMetricFamily("farthing_response_cache_bytes", "Their size, about", stats.num_bytes)


def ledger_families(stats: LedgerStats) -> Iterator[Metric]:
    yield GaugeMetricFamily("farthing_ledger_queue_depth", "Jobs that wait for the ledger's writer", stats.num_queued)
    yield GaugeMetricFamily("farthing_ledger_waiting_rows", "Rows that wait for the database", stats.num_waiting)
    yield GaugeMetricFamily("farthing_ledger_spooled_rows", "Those of them on the disk", stats.num_spooled)
    yield GaugeMetricFamily("farthing_ledger_away", "1 while the database is away", int(stats.is_away))
    yield CounterMetricFamily("farthing_ledger_rows", "Rows committed", stats.num_committed_rows)
    yield CounterMetricFamily("farthing_ledger_refused", "Calls not made while it was away", stats.num_refused)
    yield CounterMetricFamily("farthing_over_budget", "Calls that a budget or limit refused", stats.num_over_budget)
    yield CounterMetricFamily("farthing_ledger_lost_rows", "Rows that no place was left for", stats.num_lost)


def router_families(sources: Mapping[str, RouterSource]) -> Iterator[Metric]:
    """sources: by the name that clients ask for."""
    found = {name: source() for name, source in sources.items()}
    requests = CounterMetricFamily(
        "farthing_router_requests", "Calls answered, by model and kind of route", labels=["router", "model", "route"]
    )
    for name, stats in found.items():
        for (model, route), count in stats.requests.items():
            requests.add_metric([name, model, route], count)
    yield requests
    for metric, text, attribute in (
        ("farthing_router_drafts", "First answers of a cascade", "num_drafts"),
        ("farthing_router_escalations", "Those of them that were not kept", "num_escalated"),
        ("farthing_router_files_refused", "Files that could not be opened, or versions of a slot", "num_refused"),
    ):
        counter = CounterMetricFamily(metric, text, labels=["router"])
        for name, stats in found.items():
            counter.add_metric([name], getattr(stats, attribute))
        yield counter
    sessions = GaugeMetricFamily("farthing_router_sessions", "Conversations remembered", labels=["router"])
    labels = ["router", "signal"]
    psi = GaugeMetricFamily("farthing_router_drift_psi", "Distance of live prompts to the trained ones", labels=labels)
    alarm = GaugeMetricFamily("farthing_router_drift_alarm", "1 where that is too far to be chance", labels=labels)
    for name, stats in found.items():
        sessions.add_metric([name], stats.num_sessions)
        for signal, value in (stats.drift.psi if stats.drift else {}).items():
            psi.add_metric([name, signal], value)
            alarm.add_metric([name, signal], int(stats.drift is not None and signal in stats.drift.alarms))
    yield from (sessions, psi, alarm)

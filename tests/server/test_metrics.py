"""The page that Prometheus reads: right names, right sums, labels that cannot grow."""

from dataclasses import dataclass
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from farthing.economics.usage import Usage
from farthing.server.histogram import Histogram
from farthing.server.metrics import MAX_MODELS, Metrics
from farthing.upstreams import Receipt

USAGE = Usage(input_tokens=30, cache_read_tokens=10, output_tokens=5)


def receipt(
    model: str = "m", status: str = "ok", cost_pico: int | None = 2_000_000, cache: str | None = None
) -> Receipt:
    return Receipt("up", model, USAGE, "engine", cost_pico, 5_000_000, status, cache=cache)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values by label name) -> value."""
    page, _ = metrics.render()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_a_finished_request_is_counted_under_vllms_names() -> None:
    metrics = Metrics()
    metrics.observe("chat", 200, 0.9, [receipt()], finish_reason="tool_calls", first_token_s=0.1, overhead_s=0.0004)
    page = samples(metrics)
    assert page["vllm:prompt_tokens_total", ("m",)] == 30
    assert page["vllm:generation_tokens_total", ("m",)] == 5
    assert page["vllm:prefix_cache_queries_total", ("m",)] == 30
    assert page["vllm:prefix_cache_hits_total", ("m",)] == 10
    assert page["vllm:request_success_total", ("stop", "m")] == 1
    assert page["vllm:time_to_first_token_seconds_bucket", ("0.1", "m")] == 1
    assert page["vllm:time_to_first_token_seconds_bucket", ("0.08", "m")] == 0
    assert page["vllm:time_per_output_token_seconds_sum", ("m",)] == 0.2  # 0.8 s for four further tokens
    assert page["vllm:e2e_request_latency_seconds_count", ("m",)] == 1
    assert page["farthing_cost_usd_total", ("m",)] == 2e-6
    assert page["farthing_baseline_cost_usd_total", ("m",)] == 5e-6
    assert page["farthing_requests_total", ("chat", "200")] == 1
    assert page["farthing_overhead_seconds_sum", ()] == 0.0004


def test_every_attempt_is_paid_for_and_the_last_one_says_how_it_ended() -> None:
    metrics = Metrics()
    metrics.observe("chat", 200, 1.0, [receipt(status="error", cost_pico=None), receipt()], finish_reason="length")
    metrics.observe("chat", 499, 1.0, [receipt(status="aborted")])
    page = samples(metrics)
    assert page["vllm:generation_tokens_total", ("m",)] == 15
    assert page["farthing_cost_usd_total", ("m",)] == 4e-6
    assert page["farthing_unpriced_total", ("m",)] == 1
    assert page["vllm:request_success_total", ("length", "m")] == 1
    assert page["vllm:request_success_total", ("abort", "m")] == 1


def test_an_answer_from_the_response_cache_used_no_tokens() -> None:
    metrics = Metrics()
    metrics.observe("chat", 200, 0.001, [receipt(cost_pico=0, cache="hit")])
    page = samples(metrics)
    assert page["vllm:prompt_tokens_total", ("m",)] == 0
    assert page["farthing_response_cache_hits_total", ("m",)] == 1
    assert page["farthing_baseline_cost_usd_total", ("m",)] == 5e-6


def test_what_was_refused_is_counted_without_a_model() -> None:
    metrics = Metrics()
    metrics.observe("messages", 401, 0.001)
    page = samples(metrics)
    assert page["farthing_requests_total", ("messages", "401")] == 1
    assert not [key for key in page if key[0].startswith("vllm:")]


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_MODELS + 50):
        metrics.observe("chat", 200, 1.0, [receipt(f"m{number}")])
    page = samples(metrics)
    models = {labels[0] for name, labels in page if name == "vllm:prompt_tokens_total"}
    assert len(models) == MAX_MODELS + 1
    assert page["vllm:prompt_tokens_total", ("other",)] == 50 * 30


def test_engines_ledger_and_cache_are_read_when_asked() -> None:
    @dataclass
    class Load:
        num_running: int = 3
        num_waiting: int = 2
        used_share: float | None = 0.25

    load = Load()
    stats = SimpleNamespace(
        busy_s=1.5,
        num_preemptions=1,
        num_draft_tokens=8,
        num_accepted_tokens=6,
        num_steps=20,
        num_experts_read=300,
        num_page_faults=12,
        experts_per_step=7.5,
    )
    books = SimpleNamespace(
        num_queued=7,
        num_committed_rows=9,
        num_refused=1,
        num_spooled=2,
        num_waiting=3,
        num_lost=0,
        num_over_budget=5,
        is_away=True,
    )
    metrics = Metrics(
        [lambda: {"m": (load, stats), "pageless": (Load(used_share=None), stats)}],
        lambda: books,
        lambda: SimpleNamespace(num_entries=1, num_bytes=99),
    )
    load.num_running = 4
    page = samples(metrics)
    assert page["vllm:num_requests_running", ("m",)] == 4
    assert page["vllm:num_requests_waiting", ("m",)] == 2
    assert page["vllm:kv_cache_usage_perc", ("m",)] == 0.25
    assert page["vllm:num_requests_running", ("pageless",)] == 3
    assert ("vllm:kv_cache_usage_perc", ("pageless",)) not in page
    assert page["farthing_engine_busy_seconds_total", ("m",)] == 1.5
    assert page["farthing_engine_steps_total", ("m",)] == 20
    assert page["farthing_experts_read_total", ("m",)] == 300
    assert page["farthing_expert_page_faults_total", ("m",)] == 12
    assert page["farthing_experts_per_step", ("m",)] == 7.5
    assert page["farthing_ledger_queue_depth", ()] == 7
    assert page["farthing_ledger_spooled_rows", ()] == 2
    assert page["farthing_ledger_away", ()] == 1
    assert page["farthing_over_budget_total", ()] == 5
    assert page["farthing_response_cache_bytes", ()] == 99


def test_the_page_is_open_metrics_where_that_is_asked_for() -> None:
    page, content_type = Metrics().render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")
    assert Metrics().render()[1].startswith("text/plain")


def test_two_servers_in_one_process_do_not_share_a_registry() -> None:
    first, second = Metrics(), Metrics()
    first.observe("chat", 200, 1.0, [receipt()])
    assert ("farthing_requests_total", ("chat", "200")) not in samples(second)


def test_a_value_on_a_bound_is_below_it() -> None:
    histogram = Histogram((1, 2))
    for value in (1, 1.5, 2, 9):
        histogram.add(value)
    assert histogram.buckets() == [("1.0", 1), ("2.0", 3), ("+Inf", 4)]
    assert histogram.total == 13.5

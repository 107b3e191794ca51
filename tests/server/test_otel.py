"""Spans: the GenAI names, the caller's trace, no content; and nothing at all where OpenTelemetry is not configured."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from farthing.economics.usage import Usage
from farthing.server import otel
from farthing.server.otel import Spans
from farthing.upstreams import Receipt, Tally

USAGE = Usage(30, 10, 5, cache_write_tokens=4, reasoning_tokens=2)
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def receipt(cost_pico: int | None = 1_234_567, status: str = "ok") -> Receipt:
    return Receipt("up", "fake-1", USAGE, "provider", cost_pico, 9_000_000, status)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A provider for this test only: the global one can be set but once in a process."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield found
    provider.shutdown()


def test_a_span_has_the_genai_names_and_the_cost(exporter: InMemorySpanExporter) -> None:
    span = Spans().start("messages", "m", {}, is_stream=True, request_id="r1")
    span.first_chunk(0.25)
    tally = Tally(usage=USAGE, provider="anthropic", model="fake-1")
    receipts = [receipt(status="error"), receipt()]
    span.end(200, tally, receipts, answer_id="msg_r1", finish_reason="stop")
    [done] = exporter.get_finished_spans()
    assert done.name == "chat m"
    assert done.kind == trace.SpanKind.SERVER
    assert dict(done.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.id": "msg_r1",
        "gen_ai.response.model": "fake-1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.usage.cache_creation.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "http.response.status_code": 200,
        "farthing.endpoint": "messages",
        "farthing.request_id": "r1",
        "farthing.upstream": "up",
        "farthing.usage_source": "provider",
        "farthing.num_attempts": 2,
        "farthing.cost_usd": "0.000002469134",
        "farthing.baseline_cost_usd": "0.000009",
    }
    assert done.status.status_code is trace.StatusCode.UNSET


def test_a_span_joins_the_callers_trace(exporter: InMemorySpanExporter) -> None:
    Spans().start("completions", "m", PARENT, is_stream=False, request_id="r1").end(200)
    [done] = exporter.get_finished_spans()
    assert done.name == "text_completion m"
    assert done.context is not None
    assert format(done.context.trace_id, "032x") == TRACE
    assert done.parent is not None


def test_a_traceparent_that_is_none_begins_a_new_trace(exporter: InMemorySpanExporter) -> None:
    Spans().start("chat", "m", {"traceparent": "garbage"}, is_stream=False, request_id="r1").end(200)
    assert exporter.get_finished_spans()[0].parent is None


def test_a_failure_is_told_by_its_code(exporter: InMemorySpanExporter) -> None:
    Spans().start("chat", "m", {}, is_stream=False, request_id="r1").end(502, error="upstream_unreachable")
    [done] = exporter.get_finished_spans()
    assert (done.attributes or {})["error.type"] == "upstream_unreachable"
    assert done.status.status_code is trace.StatusCode.ERROR
    assert done.status.description is None


def test_what_is_not_known_is_left_out(exporter: InMemorySpanExporter) -> None:
    unknown = Receipt("up", "fake-1", Usage(), "unavailable", None, None, "aborted")
    span = Spans().start("chat", "m", {}, is_stream=True, request_id="r1")
    span.end(499, Tally(), [unknown], error="client_gone")
    attributes = exporter.get_finished_spans()[0].attributes or {}
    assert not [name for name in attributes if "cost" in name or "usage." in name]


def test_nothing_is_done_without_a_provider_or_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    for _ in range(2):
        span = Spans().start("chat", "m", PARENT, is_stream=False, request_id="r1")
        assert span._span is None
        span.first_chunk(0.1)
        span.end(200, Tally(), [receipt()])
        monkeypatch.setattr(otel, "trace", None)

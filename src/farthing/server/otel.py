"""A span for each request, with OpenTelemetry's GenAI names, where its SDK is configured (`opentelemetry-instrument
farthing serve`, or a program that sets a tracer provider). Without the package, or without a provider, nothing is done.

Numbers and names only: no prompt, no answer, no key. Money has no standard name and stands under farthing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from farthing.server.answer_cost import costs_pico, usd_text
from farthing.upstreams import Receipt, Tally

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # the extra [otel] is not installed
    trace = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

__all__ = ["RequestSpan", "Spans"]

OPERATIONS = {"completions": "text_completion"}  # of the endpoint; all others are chat


class RequestSpan:
    """One request's span. Every method does nothing where spans are off; `end` must be called, whatever happened."""

    def __init__(self, span: "Span | None") -> None:
        self._span = span

    def first_chunk(self, after_s: float) -> None:
        if self._span is not None:
            self._span.set_attribute("gen_ai.response.time_to_first_chunk", after_s)

    def end(
        self,
        status: int,
        tally: Tally | None = None,
        receipts: Sequence[Receipt] = (),
        *,
        answer_id: str | None = None,
        finish_reason: str | None = None,
        error: str | None = None,
    ) -> None:
        """status is HTTP's; error a short code ("upstream_unreachable", "client_gone"), never what was said."""
        if self._span is None:
            return
        self._span.set_attribute("http.response.status_code", status)
        if error is not None or status >= 400:
            self._span.set_attribute("error.type", error or str(status))
            self._span.set_status(trace.StatusCode.ERROR)
        if answer_id is not None:
            self._span.set_attribute("gen_ai.response.id", answer_id)
        if finish_reason is not None:
            self._span.set_attribute("gen_ai.response.finish_reasons", [finish_reason])
        if tally is not None and receipts:
            self._span.set_attributes(_used(tally, receipts))
        self._span.end()


class Spans:
    """Made once by the server, after whoever configures OpenTelemetry has done so."""

    def __init__(self) -> None:
        self._tracer: Tracer | None = None
        if trace is not None and _is_configured():
            self._tracer = trace.get_tracer("farthing")

    def start(
        self, endpoint: str, model: str, headers: Mapping[str, str], *, is_stream: bool, request_id: str
    ) -> RequestSpan:
        """headers with names in lower case: a traceparent makes the span part of the caller's trace."""
        if self._tracer is None:
            return RequestSpan(None)
        operation = OPERATIONS.get(endpoint, "chat")
        attributes: dict[str, str | bool] = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": is_stream,
            "farthing.endpoint": endpoint,
            "farthing.request_id": request_id,
        }
        context = TraceContextTextMapPropagator().extract(headers) if "traceparent" in headers else None
        name = f"{operation} {model}"
        return RequestSpan(self._tracer.start_span(name, context, trace.SpanKind.SERVER, attributes))


def _is_configured() -> bool:
    """The API's own providers, which stand there until another is set, record nothing."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _used(tally: Tally, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """Of the last attempt, which answered; the cost of all of them. What is not known is left out."""
    last, usage = receipts[-1], receipts[-1].usage
    attributes: dict[str, Any] = {
        "gen_ai.provider.name": "farthing" if tally.is_local else tally.provider,
        "gen_ai.response.model": last.model,
        "farthing.upstream": last.upstream,
        "farthing.usage_source": last.usage_source,
        "farthing.num_attempts": len(receipts),
    }
    if last.usage_source != "unavailable":
        attributes |= {
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        }
    if last.cache is not None:
        attributes["farthing.response_cache"] = last.cache
    cost, baseline = costs_pico(receipts)
    if cost is not None:
        attributes["farthing.cost_usd"] = usd_text(cost)  # text: a float would round
    if baseline is not None:
        attributes["farthing.baseline_cost_usd"] = usd_text(baseline)
    return attributes

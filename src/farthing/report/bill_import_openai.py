"""OpenAI's usage: pages of the completions usage API, the dashboard's CSV, and the older export of its first API.

A page is {"data": [{"start_time", "end_time", "results": [{"input_tokens", "input_cached_tokens", "output_tokens",
"num_model_requests", "model", …}]}]}, the CSV has the same fields in one row each. A row adds up many requests.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from farthing.report.bill_import import BadRow, Use
from farthing.report.bill_import_fields import count, day_of_field, is_true, text

__all__ = ["flatten", "openai_use"]

_TOKENS = ("input_tokens", "output_tokens", "n_context_tokens_total", "n_generated_tokens_total")


def flatten(records: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Buckets become their results, each with the bucket's time; anything else stays as it is."""
    for where, record in records:
        results = None
        if isinstance(record, Mapping):
            results = record.get("results", record.get("result"))
        if not isinstance(results, list):
            yield where, record
            continue
        for number, result in enumerate(results, 1):
            times = {"start_time": record.get("start_time")}
            yield f"{where}, result {number}", times | result if isinstance(result, dict) else result


def openai_use(record: Mapping[str, Any], notes: set[str]) -> Use | None:
    """None for a row that says nobody asked anything. Raises BadRow."""
    model = text(record, "model", "snapshot_id")
    num_requests = count(record, "num_model_requests", "n_requests")
    if not model:
        if num_requests == 0 and not any(count(record, name) for name in _TOKENS):
            return None
        raise BadRow("it names no model, so it has no price; export the usage grouped by model (group_by=model)")
    if text(record, "object") not in ("", "organization.usage.completions.result"):
        raise BadRow(f"it is {text(record, 'object')!r}; only usage of completions can be priced in tokens")
    tier = text(record, "service_tier")
    if tier not in ("", "default", "auto"):
        notes.add(f"service tier {tier[:20]!r} is priced as the standard one")
    if count(record, "input_audio_tokens") or count(record, "output_audio_tokens"):
        notes.add("audio tokens are priced as text")
    use = Use(
        model=model,
        provider="openai",
        day=day_of_field(record, "start_time", "start_time_iso", "aggregation_timestamp"),
        input_tokens=count(record, "input_tokens", "n_context_tokens_total", is_needed=True),
        cache_read_tokens=count(record, "input_cached_tokens", "n_cached_context_tokens_total"),
        cache_write_tokens=count(record, "input_cache_write_tokens"),
        output_tokens=count(record, "output_tokens", "n_generated_tokens_total", is_needed=True),
        num_requests=num_requests,
        is_batch=is_true(record, "batch"),
        is_aggregated=num_requests != 1,
    )
    if use.cache_read_tokens + use.cache_write_tokens > use.input_tokens:
        raise BadRow(f"{use.cache_read_tokens:,} cached tokens are more than the {use.input_tokens:,} input tokens")
    return use

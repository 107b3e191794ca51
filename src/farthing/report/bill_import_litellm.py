"""LiteLLM's spend logs: rows of its table LiteLLM_SpendLogs, as CSV or as its API gives them. A row is one request."""

import json
from collections.abc import Mapping
from typing import Any

from farthing.report.bill_import import BadRow, Use
from farthing.report.bill_import_fields import count, day_of_field, is_true, money, text

__all__ = ["litellm_use"]


def litellm_use(record: Mapping[str, Any], notes: set[str]) -> Use | None:
    """Raises BadRow. Cached tokens stand in metadata.usage_object, where LiteLLM knows them."""
    model = text(record, "model", "model_group")
    if not model:
        raise BadRow("it names no model, so it has no price")
    usage = _usage(record, notes)
    details = usage.get("prompt_tokens_details")
    cached = count(usage, "cache_read_input_tokens")
    if not cached and isinstance(details, Mapping):
        cached = count(details, "cached_tokens")
    written = count(usage, "cache_creation_input_tokens")
    num_input = count(record, "prompt_tokens", is_needed=True)
    if cached + written > num_input:
        num_input += cached + written  # Anthropic's own count, which leaves them out
        notes.add("rows whose cached tokens are more than their prompt tokens: counted on top of them")
    return Use(
        model=model,
        provider=text(record, "custom_llm_provider") or None,
        day=day_of_field(record, "startTime", "start_time"),
        input_tokens=num_input,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        output_tokens=count(record, "completion_tokens", is_needed=True),
        num_requests=1,
        is_hit=is_true(record, "cache_hit"),
        spend_usd=money(record, "spend"),
    )


def _usage(record: Mapping[str, Any], notes: set[str]) -> Mapping[str, Any]:
    """metadata.usage_object or metadata.additional_usage_values; empty where there is none."""
    metadata = record.get("metadata")  # in a CSV JSON text
    if isinstance(metadata, str) and metadata.strip():
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            notes.add(
                "metadata that is not JSON: cached tokens of these rows are not known, all input is priced in full"
            )
    if not isinstance(metadata, Mapping):
        return {}
    for name in ("usage_object", "additional_usage_values"):
        usage = metadata.get(name)
        if isinstance(usage, Mapping):
            return usage
    return {}

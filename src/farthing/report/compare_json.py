"""A comparison as one JSON document. Dollars are decimals to 1e-12; null is not known."""

from typing import Any

from farthing.report.compare import Against, Comparison, ModelResult
from farthing.report.compare_stats import POWER
from farthing.report.compare_words import headline, remarks

__all__ = ["to_json"]


def to_json(found: Comparison) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "task": found.task,
        "rows": found.num_rows,
        "partial": found.is_partial,
        "models": [_model(model) for model in found.models],
        "verdict": None
        if verdict is None
        else {
            "best": verdict.best,
            "cheapest_not_worse": verdict.cheapest,
            "rows": verdict.num_rows,
            "alpha": verdict.alpha,
            "test": "exact McNemar, one-sided",
            "power_of_rows_needed": POWER,
            "against_best": [_against(one) for one in verdict.against],
        },
        "headline": headline(found),
        "notes": list(remarks(found)),
    }


def _model(model: ModelResult) -> dict[str, Any]:
    return {
        "name": model.name,
        "rows": model.num_rows,
        "right": model.num_right,
        "accuracy": model.accuracy,
        "accuracy_low": model.interval[0],
        "accuracy_high": model.interval[1],
        "usd_per_1000": model.usd_per_1000,
        "latency_p50_s": None if model.p50_us is None else model.p50_us / 1e6,
        "latency_p95_s": None if model.p95_us is None else model.p95_us / 1e6,
        "input_tokens": model.input_tokens,
        "cache_read_tokens": model.cache_read_tokens,
        "output_tokens": model.output_tokens,
        "errors": model.num_errors,
        "on_front": model.is_on_front,
        "stopped": model.stopped,
    }


def _against(one: Against) -> dict[str, Any]:
    return {
        "name": one.name,
        "only_best_right": one.only_best,
        "only_this_right": one.only_this,
        "p_value": one.p_value,
        "significantly_worse": one.is_worse,
        "lead": one.lead,
        "lead_low": one.lead_interval[0],
        "lead_high": one.lead_interval[1],
        "rows_needed": one.rows_needed,
    }

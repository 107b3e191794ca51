"""The bill as a JSON document (docs/bill.md). Amounts come twice: whole pico-dollars, and dollars as exact decimals."""

from collections.abc import Mapping, Sequence
from typing import Any

from farthing.report.bill import Bill
from farthing.report.bill_forecast import Forecast
from farthing.report.bill_learned_shown import learned_json
from farthing.report.bill_lot import to_document
from farthing.report.bill_sketch import MAX_ERROR, Sketch
from farthing.report.bill_sums import Sums
from farthing.report.bill_words import exact, notes

__all__ = ["amount", "to_json"]

_CLASSES = ("input", "cache_read", "cache_write", "output", "request")


def amount(name: str, pico: int) -> dict[str, Any]:
    return {f"{name}_pico": pico, f"{name}_usd": exact(pico)}


def to_json(
    bill: Bill, budgets: Sequence[Mapping[str, Any]] = (), dimensions: Sequence[str] | None = None
) -> dict[str, Any]:
    shown = [name for name in bill.groups if dimensions is None or name in dimensions]
    return {
        "since": bill.period.since.isoformat(),
        "until": bill.period.until.isoformat(),
        "total": _sums(bill.total),
        "by": {name: _groups(bill, name) for name in shown},
        "lots": [to_document(lot) for lot in bill.lots],
        "learned": None if bill.learned is None else learned_json(bill.learned),
        "levers": [{"name": name, **amount("saving", pico)} for name, pico in bill.levers.items()],
        "request_cost_pico": _percentiles(bill.request_cost),
        "first_token_us": _percentiles(bill.first_token),
        "forecast": _forecast(bill.forecast),
        "stale_prices": [
            {
                "version": stale.version,
                "rows": stale.num_rows,
                **amount("cost", stale.cost_pico),
                "warning": stale.warning,
            }
            for stale in bill.stale
        ],
        "budgets": list(budgets),
        "notes": list(notes(bill)),
    }


def _groups(bill: Bill, dimension: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "label": bill.label(dimension, name), **_sums(sums)}
        for name, sums in bill.groups[dimension].by_cost()
    ]


def _sums(sums: Sums) -> dict[str, Any]:
    classes = {key: value for name in _CLASSES for key, value in amount(name, getattr(sums, f"{name}_pico")).items()}
    return {
        **amount("cost", sums.cost_pico),
        **amount("baseline", sums.baseline_pico),
        **amount("compared_cost", sums.compared_pico),
        **amount("saving", sums.saving_pico),
        **classes,
        **amount("estimated", sums.estimated_pico),
        **amount("failed_baseline", sums.failed_baseline_pico),
        **amount("failed_or_discarded_cost", sums.lost_pico),
        "rows": sums.num_rows,
        "requests": sums.num_requests,
        "rows_unpriced": sums.num_unpriced,
        "rows_without_baseline": sums.num_without_baseline,
        "rows_estimated": sums.num_estimated,
        "rows_usage_unavailable": sums.num_unavailable,
        "rows_failed": sums.num_failed,
        "rows_discarded": sums.num_discarded,
        "rows_killed": sums.num_killed,
        "rows_aborted": sums.num_aborted,
        "rows_cache_hit": sums.num_hits,
        "input_tokens": sums.input_tokens,
        "cache_read_tokens": sums.cache_read_tokens,
        "cache_write_tokens": sums.cache_write_tokens,
        "output_tokens": sums.output_tokens,
        "reasoning_tokens": sums.reasoning_tokens,
    }


def _percentiles(sketch: Sketch) -> dict[str, Any]:
    return {"p50": sketch.at(0.5), "p95": sketch.at(0.95), "num": sketch.num, "max_relative_error": MAX_ERROR}


def _forecast(found: Forecast | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"reason": found}
    return {
        "month": found.month,
        **amount("spent", found.spent_pico),
        **amount("expected", found.expected_pico),
        **amount("low", found.low_pico),
        **amount("high", found.high_pico),
        "days": found.num_days,
        "days_left": found.days_left,
        "method": found.method,
    }

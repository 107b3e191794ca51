"""The ledger as FOCUS 1.2 rows (FinOps Open Cost and Usage Specification), one per class of tokens and attempt.

Every cost column of a row is the ledger's amount for that class, as an exact decimal: the rows of an attempt add up to
its cost. FOCUS wants ListCost to be the price of the same SKU without discounts, and we know no discounts, so it is
the same amount; what the baseline's model would have cost stands in x_BaselineCost, once per attempt. A row whose cost
is not known cannot be written (FOCUS allows no empty cost, and 0 would be a lie): it is counted and left out.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TextIO

from farthing.errors import FarthingError
from farthing.ledger.row import Row
from farthing.report.bill_period import month_after, month_of
from farthing.report.bill_words import exact

__all__ = ["COLUMNS", "Exported", "cell", "export", "focus_rows"]

_CHARGE = (
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "Tags",
)
_OWN = (
    "x_AttemptId",
    "x_RequestId",
    "x_Attempt",
    "x_TokenClass",
    "x_Model",
    "x_RequestedModel",
    "x_Upstream",
    "x_Endpoint",
    "x_Status",
    "x_Lever",
    "x_CacheHit",
    "x_UsageSource",
    "x_PriceStatus",
    "x_PriceVersion",
    "x_Project",
    "x_InputTokens",
    "x_CachedTokens",
    "x_OutputTokens",
    "x_BaselineModel",
    "x_BaselineCost",
)
COLUMNS = (*_CHARGE, *_OWN)
_WORDS = {
    "input": "input tokens",
    "cache_read": "input tokens read from a cache",
    "cache_write": "input tokens written to a cache",
    "output": "output tokens",
    "request": "requests",
}


@dataclass
class Exported:
    num_rows: int = 0  # of the ledger, that were written
    num_unpriced: int = 0  # of the ledger, that could not be
    cost_pico: int = 0


def export(rows: Iterable[Row], out: TextIO, key_names: Mapping[str, str], account: str = "farthing") -> Exported:
    """Write a header and the rows, one after the other: nothing is kept. key_names: the names of keys by their ids."""
    told = Exported()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        if row.cost_pico is None:
            told.num_unpriced += 1
            continue
        told.num_rows += 1
        told.cost_pico += row.cost_pico
        writer.writerows(focus_rows(row, key_names, account))
    return told


def cell(text: str) -> str:
    """A text that a spreadsheet will not take for a formula: =, +, -, @ and the like get an apostrophe before them."""
    safe = text.encode("utf-8", "replace").decode().replace("\0", "")
    return f"'{safe}" if safe.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else safe


def focus_rows(row: Row, key_names: Mapping[str, str], account: str = "farthing") -> Iterator[dict[str, str]]:
    """The rows of one attempt whose cost is known. What is said of the whole attempt (its tokens, its baseline) stands
    on the first one, so that columns can be added up. Empty cells are FOCUS's null.

    Raises FarthingError where the classes do not add up to the cost: such a ledger was changed by somebody else.
    """
    classes = [(name, num, pico) for name, num, pico in _classes(row) if num or pico]
    if sum(pico for _, _, pico in classes) != row.cost_pico:
        raise FarthingError(
            f"row {row.id} of the ledger: its parts do not add up to its cost; restore it from a backup"
        )
    common = _common(row, key_names, account)
    whole = {
        "x_InputTokens": _count(row.input_tokens),
        "x_CachedTokens": _count(row.cache_read_tokens),
        "x_OutputTokens": _count(row.output_tokens),
        "x_BaselineCost": "" if row.baseline_pico is None else _decimal(exact(row.baseline_pico)),
    }
    for index, (name, num, pico) in enumerate(classes or [("request", 1, 0)]):
        yield common | _charge(row, name, num, pico) | (whole if index == 0 else {})


def _classes(row: Row) -> Iterator[tuple[str, int, int]]:
    """(class, quantity, pico-dollars): each token in exactly one class."""
    read, write = row.cache_read_tokens or 0, row.cache_write_tokens or 0
    yield "input", max(0, (row.input_tokens or 0) - read - write), row.input_pico or 0
    yield "cache_read", read, row.cache_read_pico or 0
    yield "cache_write", write, row.cache_write_pico or 0
    yield "output", row.output_tokens or 0, row.output_pico or 0
    yield "request", 1 if row.request_pico else 0, row.request_pico or 0


def _charge(row: Row, name: str, num: int, pico: int) -> dict[str, str]:
    amount, unit = _decimal(exact(pico)), "Requests" if name == "request" else "Tokens"
    model = row.served_model or "unknown"
    return {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), amount),
        **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), _decimal(str(num))),
        **dict.fromkeys(("ConsumedUnit", "PricingUnit"), unit),
        "ChargeDescription": cell(f"{model}: {num} {_WORDS[name]}"),
        "SkuId": cell(f"{row.provider or 'unknown'}/{model}/{name}"),
        "SkuPriceId": cell(f"{row.provider or 'unknown'}/{model}/{name}"),
        "SkuMeter": _WORDS[name],
        "SkuPriceDetails": json.dumps({"x_Model": model, "x_TokenClass": name}),
        "x_TokenClass": name,
    }


def _common(row: Row, key_names: Mapping[str, str], account: str) -> dict[str, str]:
    started = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=row.started_us)
    opens, closes = month_of(started), month_after(started)
    ended = min(started + timedelta(microseconds=max(0, row.total_us), seconds=1), closes)
    provider = "this machine" if row.price_status == "local" else row.provider or "unknown"
    return {
        "BillingAccountId": cell(account),
        "BillingAccountName": cell(account),
        "BillingCurrency": "USD",
        "BillingPeriodStart": _time(opens),
        "BillingPeriodEnd": _time(closes),
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(started),
        "ChargePeriodEnd": _time(ended),
        "InvoiceId": "",  # whoever bills these calls numbers his invoices later, and we do not see them
        "PricingCategory": "Standard",
        **dict.fromkeys(("ProviderName", "PublisherName", "InvoiceIssuerName"), cell(provider)),
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": cell(row.upstream or provider),
        "SubAccountId": cell(row.key_id or ""),
        "SubAccountName": cell(key_names.get(row.key_id, row.key_id) if row.key_id else ""),
        "Tags": json.dumps(dict.fromkeys(row.tags, True)) if row.tags else "",
        **_own(row),
    }


def _own(row: Row) -> dict[str, str]:
    """Columns that FOCUS does not know."""
    return {
        "x_AttemptId": cell(row.id),
        "x_RequestId": cell(row.request_id),
        "x_Attempt": str(row.attempt),
        "x_Model": cell(row.served_model),
        "x_RequestedModel": cell(row.asked_model),
        "x_Upstream": cell(row.upstream),
        "x_Endpoint": cell(row.endpoint),
        "x_Status": row.status,
        "x_Lever": _lever(row),
        "x_CacheHit": "true" if row.cache == "hit" else "false",
        "x_UsageSource": row.usage_source,
        "x_PriceStatus": row.price_status,
        "x_PriceVersion": cell(row.price_version),
        "x_Project": cell(row.project or ""),
        "x_BaselineModel": cell(row.baseline_model or ""),
    }


def _lever(row: Row) -> str:
    """The first lever of the bill's that this row is a case of."""
    if row.status in ("error", "killed", "discarded"):
        return "failed_attempts"
    if row.cache == "hit":
        return "response_cache"
    if row.price_status == "local":
        return "local_compute"
    if row.baseline_model is not None and row.baseline_model.lower() != row.served_model.lower():
        return "cheaper_model"
    return "prompt_cache" if row.cache_read_tokens or row.cache_write_tokens else ""


def _decimal(text: str) -> str:
    """With a point always: readers that guess a column's type from its cells must not take FOCUS's decimals, where
    they happen to be whole, for integers. The official validator fails such a column."""
    return text if "." in text else f"{text}.0"


def _count(num: int | None) -> str:
    return "" if num is None else str(num)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"

"""How a bill's numbers and names read, the same in the terminal and on the page."""

from collections.abc import Callable, Iterable
from decimal import Decimal

from farthing.economics.charge import usd
from farthing.report.bill import Bill
from farthing.report.bill_forecast import Forecast
from farthing.report.bill_sketch import MAX_ERROR, Sketch
from farthing.report.bill_sums import Sums

__all__ = [
    "LEVER_NAMES",
    "exact",
    "forecast_text",
    "money",
    "notes",
    "percentiles",
    "share",
    "shown",
    "signed",
    "tokens",
]

LEVER_NAMES = {
    "response_cache": "response cache",
    "local_compute": "local compute",
    "cheaper_model": "another model",
    "prompt_cache": "provider's prompt cache",
    "prefix_cache": "local prefix cache",
    "failed_attempts": "failed attempts",
}


def money(amount_pico: int) -> str:
    """Dollars with three significant digits, at least two of them decimals: $12.30, $0.0765; below zero −$0.12."""
    amount = usd(abs(amount_pico))
    digits = 2 if amount == 0 else min(12, max(2, 2 - amount.adjusted()))
    return f"{'−' if amount_pico < 0 else ''}${amount:,.{digits}f}"


def signed(amount_pico: int) -> str:
    return f"+{money(amount_pico)}" if amount_pico > 0 else money(amount_pico)


def exact(amount_pico: int) -> str:
    """Dollars to the last pico-dollar, without an exponent and without zeros at the end: 0.000000000001."""
    text = f"{usd(amount_pico):.12f}"
    return text.rstrip("0").rstrip(".")


def tokens(num: int) -> str:
    return f"{num:,}"


def share(part: int, whole: int) -> str:
    return f"{Decimal(part) / Decimal(whole):.1%}".replace("-", "−") if whole else "–"


def shown(name: str, width: int = 48) -> str:
    """A name that others chose, fit to be shown: control characters as escapes, the middle of a long one left out."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in name)
    if len(safe) <= width:
        return safe
    tail = (width - 1) // 3
    return f"{safe[: width - 1 - tail]}…{safe[-tail:]}"


def percentiles(sketch: Sketch, write: Callable[[int], str]) -> str:
    p50, p95 = sketch.at(0.5), sketch.at(0.95)
    return "none" if p50 is None or p95 is None else f"p50 {write(p50)}, p95 {write(p95)} (each within {MAX_ERROR:.0%})"


def forecast_text(found: Forecast | str) -> str:
    if isinstance(found, str):
        return found
    low, high = money(found.low_pico), money(found.high_pico)
    return f"month end {found.month}: {money(found.expected_pico)}, between {low} and {high} ({found.method})"


def notes(bill: Bill) -> Iterable[str]:
    """What a reader must know to take the figures for what they are; nothing where there is nothing to say."""
    total = bill.total
    if total.num_unpriced:
        yield f"plus {total.num_unpriced:,} rows without a price (not in the list, or usage not known): in no sum"
    if total.num_without_baseline:
        yield f"{total.num_without_baseline:,} rows have no baseline; they are in the spend and outside of the saving"
    if total.num_estimated:
        part = f"{money(total.estimated_pico)} ({share(total.estimated_pico, total.cost_pico)} of the spend)"
        yield f"{total.num_estimated:,} rows have estimated usage, {part}: the provider reported none"
    if total.num_unavailable:
        yield f"of {total.num_unavailable:,} rows nobody knows the usage"
    if total.num_failed or total.num_aborted:
        yield _unfinished(total)
    if total.num_discarded:
        yield f"{total.num_discarded:,} answers and samples of cascades were not given: paid, without a baseline"
    for stale in bill.stale[:5]:
        yield f"stale price: {stale.num_rows:,} rows, {money(stale.cost_pico)}: {stale.warning}"
    if len(bill.stale) > 5:
        yield f"and {len(bill.stale) - 5:,} more stale prices"
    if isinstance(bill.forecast, Forecast) and total.num_unpriced:
        yield "the forecast knows nothing of rows without a price"


def _unfinished(total: Sums) -> str:
    failed = total.num_failed - total.num_killed
    return f"{failed:,} attempts failed, {total.num_killed:,} were killed, {total.num_aborted:,} aborted by the client"

"""How numbers and findings read, the same in the terminal and on the page."""

from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from farthing.report.document import Hosted, Report

__all__ = ["headline", "hosted_sentence", "mib", "rate", "times", "usd"]


def usd(amount: Decimal) -> str:
    """Dollars with three significant digits, at least two of them decimals: $12.30, $0.0765, $0.00123."""
    digits = 2 if amount == 0 else max(2, 2 - amount.adjusted())
    return f"${amount:,.{digits}f}"


def rate(tokens_per_s: float | None) -> str:
    return "–" if tokens_per_s is None else f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.1f}"


def times(factor: Decimal) -> str:
    return f"{factor:.2f}×" if factor < 100 else f"{factor:.0f}×"


def mib(num_bytes: int | None) -> str:
    return "not told here" if num_bytes is None else f"{num_bytes / 2**20:,.0f}"


def headline(report: "Report") -> str:
    """One sentence: where the cost began, where it ended."""
    if not report.rows:
        return "Interrupted before the first lever was measured."
    first, last = report.rows[0], report.rows[-1]
    begun = f"{first.lever}: {usd(first.usd_per_mtok.blended)} per million tokens (input and output together)"
    if len(report.rows) == 1:
        return f"{begun}."
    ended = f"with {last.lever} {usd(last.usd_per_mtok.blended)}, {times(last.factor_first)} cheaper"
    return f"{begun}; {ended}."


def hosted_sentence(hosted: "Hosted") -> str:
    cost, even = hosted.cost, hosted.break_even
    if even is None:
        verdict = "free there: this machine never breaks even"
    elif even > 1:
        verdict = f"{times(even)} dearer here even when this machine is busy all the time"
    else:
        verdict = f"this machine breaks even when it is busy {even:.1%} of the time"
    price = f"{usd(cost.usd_per_mtok)} per million tokens, {usd(cost.usd)} for this workload"
    return f"{cost.price.model} ({hosted.role}): {price}; {verdict}. Price: {cost.price.source.text}."

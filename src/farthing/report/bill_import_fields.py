"""Fields of rows that others wrote: a number may be 12, "12", "12.0" or nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from farthing.economics.prices import MAX_TOKENS
from farthing.report.bill_import import BadRow

__all__ = ["count", "day_of_field", "is_true", "money", "text"]


def text(record: Mapping[str, Any], *names: str) -> str:
    """The first of these fields that says something, as text."""
    for name in names:
        value = record.get(name)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def count(record: Mapping[str, Any], *names: str, is_needed: bool = False) -> int:
    """A whole number of 0 and more. Raises BadRow for anything else, and where a needed one is missing."""
    written = text(record, *names)
    if not written:
        if is_needed:
            raise BadRow(f"{names[0]} is missing")
        return 0
    number = _decimal(names[0], written)
    if number != number.to_integral_value() or not 0 <= number <= MAX_TOKENS:
        raise BadRow(f"{names[0]} is {written[:40]!r}; it must be a whole number from 0 to {MAX_TOKENS:,}")
    return int(number)


def money(record: Mapping[str, Any], name: str) -> Decimal | None:
    written = text(record, name)
    if not written:
        return None
    amount = _decimal(name, written)
    if not 0 <= amount < 10**9:
        raise BadRow(f"{name} is {written[:40]!r}; it must be US dollars from 0 to 10^9")
    return amount


def _decimal(name: str, written: str) -> Decimal:
    try:
        number = Decimal(written)
    except InvalidOperation:
        raise BadRow(f"{name} is {written[:40]!r}, not a number") from None
    if not number.is_finite():
        raise BadRow(f"{name} is {written[:40]!r}, not a finite number")
    return number


def day_of_field(record: Mapping[str, Any], *names: str) -> str:
    """The UTC day of the first of these fields that is there: seconds since 1970, or ISO 8601. "" where none is."""
    written = text(record, *names)
    if not written:
        return ""
    try:
        if written.replace(".", "", 1).isdigit():
            return datetime.fromtimestamp(float(written), UTC).date().isoformat()
        moment = datetime.fromisoformat(written)
    except (ValueError, OverflowError, OSError):
        raise BadRow(f"{names[0]} is {written[:40]!r}, not a time") from None
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).date().isoformat()


def is_true(record: Mapping[str, Any], name: str) -> bool:
    return text(record, name).lower() in ("true", "1", "yes")

"""What somebody may use in a span of time: a budget (dollars, tokens) or a limit (requests or tokens per minute).

A window begins with the minute, hour, day or month in UTC; a reservation counts in the window in which it was made. A
budget counts from the moment it is made, not what was used before.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from farthing.economics.charge import pico, usd
from farthing.ledger.errors import LedgerError

__all__ = ["Budget", "BudgetIndex", "Scope", "Span", "Unit", "parse_amount"]

Kind = Literal["budget", "limit"]
Scope = Literal["key", "tag", "project", "global"]
Unit = Literal["usd", "tokens", "requests"]
Span = Literal["minute", "hour", "day", "month", "total"]
FORM = "write it like 5usd/month, 100000tokens/day, 60requests/minute or 20usd/total"
MAX_USD, MAX_COUNT = 1_000_000, 10**15
_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}


@dataclass(frozen=True, slots=True)
class Budget:
    id: str
    kind: Kind
    scope: Scope
    subject: str  # the key's id, the tag or the project; "" for global
    unit: Unit
    span: Span
    amount: int  # pico-dollars, tokens or requests
    created_us: int = 0

    def window_us(self, at_us: int) -> int:
        """When the window began that holds at that time; 0 for a total."""
        if self.span == "total":
            return 0
        if self.span == "month":
            at = datetime.fromtimestamp(at_us // 1_000_000, UTC)
            return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1_000_000
        length_us = _SECONDS[self.span] * 1_000_000
        return at_us // length_us * length_us

    def ends_us(self, at_us: int) -> int | None:
        """When that window ends; None for a total, which never does."""
        start_us = self.window_us(at_us)
        if self.span == "total":
            return None
        if self.span == "month":
            next_month = datetime.fromtimestamp(start_us // 1_000_000, UTC) + timedelta(days=32)
            return int(next_month.replace(day=1).timestamp()) * 1_000_000
        return start_us + _SECONDS[self.span] * 1_000_000

    def words(self, amount: int) -> str:
        """An amount in this budget's unit, for people."""
        return f"{usd(amount).normalize():f} USD" if self.unit == "usd" else f"{amount:,} {self.unit}"

    @property
    def title(self) -> str:
        of = "everybody" if self.scope == "global" else f"{self.scope} {self.subject}"
        per = "in total" if self.span == "total" else f"per {self.span}"
        return f"the {self.kind} of {of}, {self.words(self.amount)} {per}"


def parse_amount(text: str) -> tuple[Unit, Span, int]:
    """ "5usd/month" as ("usd", "month", 5 * 10**12). Raises LedgerError."""
    found = re.fullmatch(r"\s*([0-9._]+)\s*([a-z]+)\s*/\s*([a-z]+)\s*", text.lower())
    units = {"usd": "usd", "token": "tokens", "tokens": "tokens", "request": "requests", "requests": "requests"}
    if found is None or found[2] not in units or found[3] not in get_args(Span):
        raise LedgerError(f"{text!r} is no budget; {FORM}")
    unit: Unit = units[found[2]]  # type: ignore[assignment]
    span: Span = found[3]  # type: ignore[assignment]
    try:
        number = Decimal(found[1])
    except InvalidOperation:
        raise LedgerError(f"{text!r} is no budget; {FORM}") from None
    highest = MAX_USD if unit == "usd" else MAX_COUNT
    if not 0 < number <= highest or (unit != "usd" and number != int(number)):
        raise LedgerError(f"{text!r}: allowed are whole numbers of tokens and requests, and 0 to {highest:,} {unit}")
    amount = pico(number) if unit == "usd" else int(number)
    if amount == 0:
        raise LedgerError(f"{text!r} is less than a pico-dollar; {FORM}")
    return unit, span, amount


class BudgetIndex:
    """All budgets by whom they are for, so that a call finds its own at once however many there are."""

    def __init__(self, budgets: Iterable[Budget] = (), version: int = 0) -> None:
        self.version = version
        self._by_subject: dict[tuple[str, str], list[Budget]] = {}
        for budget in budgets:
            self._by_subject.setdefault((budget.scope, budget.subject), []).append(budget)

    def of(self, key_id: str | None, project: str | None, tags: Sequence[str]) -> list[Budget]:
        """Those that apply, in the order of their ids."""
        if not self._by_subject:
            return []
        subjects = [("global", "")] + [("tag", tag) for tag in dict.fromkeys(tags)]
        if key_id is not None:
            subjects.append(("key", key_id))
        if project is not None:
            subjects.append(("project", project))
        found = [budget for subject in subjects for budget in self._by_subject.get(subject, ())]
        return sorted(found, key=lambda budget: budget.id)

"""What this month will have cost at its end, from the days before: a mean and an honest range, or a reason for none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from statistics import mean, stdev

from farthing.report.bill_period import Period, moment_us, month_after, month_of

__all__ = ["HISTORY_DAYS", "MIN_DAYS", "Forecast", "forecast", "history_us"]

HISTORY_DAYS = 28
MIN_DAYS = 3
Z80 = Decimal("1.2816")


@dataclass(frozen=True)
class Forecast:
    """Pico-dollars for the whole month, with what is spent already. low and high hold 4 times of 5, if days to come are
    like the days before and independent of each other."""

    month: str
    spent_pico: int
    expected_pico: int
    low_pico: int
    high_pico: int
    per_day_pico: int
    num_days: int  # whole days it was learnt from
    days_left: Decimal

    @property
    def method(self) -> str:
        return (
            f"spent so far plus the mean of the last {self.num_days} whole days times the {self.days_left:.1f} days"
            " left; range: 80 % if coming days are like those and independent"
        )


def history_us(period: Period) -> int | None:
    """From when on rows before the period are of use; None where there is no forecast anyway."""
    month = month_of(period.now)
    if period.until < period.now or period.since > month:
        return None
    midnight = period.now.replace(hour=0, minute=0, second=0, microsecond=0)
    return moment_us(midnight - timedelta(days=HISTORY_DAYS + 1))  # one more: the first known day is not learnt from


def forecast(days: Mapping[str, int], period: Period) -> Forecast | str:
    """From spend by UTC day (pico-dollars; a day without rows is 0). A string says why there is no forecast."""
    month, now = month_of(period.now), period.now
    if period.until < now or period.since > month:
        return f"no forecast: the period is not the month {month:%Y-%m} until now"
    today = f"{now:%Y-%m-%d}"
    first = min((day for day in days if day <= today), default=None)
    if first is None:
        return "no forecast: nothing was spent yet"
    whole = [(now - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(1, HISTORY_DAYS + 1)]
    known = [Decimal(days.get(day, 0)) for day in whole if day > first]  # the first was perhaps not a whole one
    if len(known) < MIN_DAYS:
        return f"no forecast: {len(known)} whole days are known, it needs {MIN_DAYS}"
    spent = sum(amount for day, amount in days.items() if f"{month:%Y-%m-%d}" <= day <= today)
    left = Decimal((month_after(now) - now) // timedelta(seconds=1)) / 86_400
    rate, spread = mean(known), stdev(known)
    wide = Z80 * spread * (left + left * left / len(known)).sqrt()  # of the days to come, and of the mean itself
    expected = rate * left
    return Forecast(
        f"{month:%Y-%m}",
        spent,
        spent + int(expected),
        spent + max(0, int(expected - wide)),
        spent + int(expected + wide),
        int(rate),
        len(known),
        left,
    )

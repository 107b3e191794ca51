"""The time a bill covers: from `since` (included) to `until` (not included), in UTC."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from farthing.errors import InvalidRequest

__all__ = ["Period", "day_of", "moment_us", "month_after", "month_of", "parse_period"]

DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Period:
    since: datetime
    until: datetime
    now: datetime

    @property
    def since_us(self) -> int:
        return moment_us(self.since)

    @property
    def until_us(self) -> int:
        return moment_us(self.until)

    @property
    def text(self) -> str:
        return f"{_text(self.since)} to {_text(self.until)} (UTC, the end not included)"


def moment_us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def day_of(time_us: int) -> str:
    """The UTC day of a row, as 2026-11-25."""
    return (_EPOCH + timedelta(days=time_us // DAY_US)).date().isoformat()


def month_of(moment: datetime) -> datetime:
    """The first moment of its month."""
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_after(moment: datetime) -> datetime:
    """The first moment of the next month."""
    return month_of(month_of(moment) + timedelta(days=32))


def parse_period(since: str | None, until: str | None, month: str | None, now: datetime) -> Period:
    """What --since, --until and --month say; without them this month so far. Raises InvalidRequest."""
    if month is not None:
        if since is not None or until is not None:
            raise InvalidRequest("--month says both ends of the period; leave out --since and --until")
        if not re.fullmatch(r"\d{4}-\d{2}", month):
            raise InvalidRequest(f"--month is {month!r}; write a month like 2026-11")
        first = _moment(f"{month}-01", "--month")
        return Period(first, month_after(first), now)
    begins = month_of(now) if since is None else _moment(since, "--since")
    ends = max(now, begins) + timedelta(microseconds=1) if until is None else _moment(until, "--until")
    if begins >= ends:
        raise InvalidRequest(f"--since {_text(begins)} is not before --until {_text(ends)}; exchange them")
    return Period(begins, ends, now)


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{option} is {text!r}; write a day like 2026-11-01, or a time like 2026-11-01T12:00 (UTC)"
        ) from None


def _text(moment: datetime) -> str:
    is_midnight = moment == moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{moment:%Y-%m-%d}" if is_midnight else f"{moment:%Y-%m-%d %H:%M}"

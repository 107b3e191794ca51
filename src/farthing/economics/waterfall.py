"""The waterfall: what a million tokens cost as each lever is added. Pure arithmetic on measured tokens and seconds.

A row's seconds, priced by the machine's cost per hour: those of the prompts over input tokens, those of the answers
over output tokens, all of them over both for blended. Money and time are Decimal, rounded once at the door, so that
line items sum to their totals exactly and the bars telescope.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest

__all__ = ["Bar", "Measured", "Row", "UsdPerMtok", "bars", "scaled", "split_seconds", "waterfall"]

MICROSECOND = Decimal("1e-6")


@dataclass(frozen=True)
class Measured:
    """One lever as measured: `seconds` on the wall clock, and the engine's own account of them in `usage`."""

    lever: str
    usage: Usage
    seconds: float


@dataclass(frozen=True)
class UsdPerMtok:
    input: Decimal
    output: Decimal
    blended: Decimal


@dataclass(frozen=True)
class Row:
    """One priced lever. `factor_*` is how many times cheaper blended tokens are than in that row (1 in the first)."""

    lever: str
    input_tokens: int
    cache_read_tokens: int
    output_tokens: int
    input_s: Decimal
    output_s: Decimal
    cost_usd: Decimal
    usd_per_mtok: UsdPerMtok
    factor_previous: Decimal
    factor_first: Decimal

    @property
    def seconds(self) -> Decimal:
        return self.input_s + self.output_s


@dataclass(frozen=True)
class Bar:
    """A bar of the chart, in blended $/Mtok: a total stands on 0, a step hangs between two totals."""

    label: str
    start: Decimal
    end: Decimal
    is_total: bool


def split_seconds(usage: Usage, seconds: float) -> tuple[Decimal, Decimal]:
    """Wall-clock seconds as (input, output) seconds, in proportion to the engine's; they sum to the whole exactly.

    What the engine does not account for (tokenizing, scheduling) is charged in the same proportion.
    """
    whole = Decimal(seconds).quantize(MICROSECOND)
    if usage.compute_s <= 0:
        return whole, Decimal(0)
    share = Decimal(usage.input_s) / (Decimal(usage.input_s) + Decimal(usage.output_s))
    of_input = (whole * share).quantize(MICROSECOND)
    return of_input, whole - of_input


def scaled(lever: str, sample: Measured, next_on_sample: Measured, next_row: Measured) -> Measured:
    """A row measured on a sample only, as it would be on the whole workload: the next row times the sample's ratio.

    Seconds of input and of output are scaled apart, each by its own ratio, as the two need not be mixed in the
    sample as they are in the workload. Raises InvalidRequest where the sample took no time.
    """
    sides = []
    for part in (0, 1):
        of_sample = split_seconds(sample.usage, sample.seconds)[part]
        of_next = split_seconds(next_on_sample.usage, next_on_sample.seconds)[part]
        whole = split_seconds(next_row.usage, next_row.seconds)[part]
        if of_next == 0 and of_sample > 0:
            raise InvalidRequest(f"the sample for {lever!r} is too short to be scaled; use a longer workload")
        sides.append(whole * of_sample / of_next if of_next else Decimal(0))
    usage = next_row.usage
    return Measured(
        lever,
        Usage(usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, float(sides[0]), float(sides[1])),
        float(sides[0] + sides[1]),
    )


def waterfall(measured: Sequence[Measured], host: HostCost) -> tuple[Row, ...]:
    """Price every measured row and compare it with the row above and with the first.

    Raises InvalidRequest for a machine price that is not above 0.
    """
    if host.usd_per_hour == 0:
        raise InvalidRequest("usd_per_hour is 0: where tokens are free no lever saves anything; give a price above 0")
    rows: list[Row] = []
    for item in measured:
        input_s, output_s = split_seconds(item.usage, item.seconds)
        usage = item.usage
        blended = _usd_per_mtok(host, usage.input_tokens + usage.output_tokens, input_s + output_s)
        rows.append(
            Row(
                lever=item.lever,
                input_tokens=usage.input_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                output_tokens=usage.output_tokens,
                input_s=input_s,
                output_s=output_s,
                cost_usd=host.usd(input_s + output_s),
                usd_per_mtok=UsdPerMtok(
                    _usd_per_mtok(host, usage.input_tokens, input_s),
                    _usd_per_mtok(host, usage.output_tokens, output_s),
                    blended,
                ),
                factor_previous=_factor(rows[-1].usd_per_mtok.blended if rows else blended, blended),
                factor_first=_factor(rows[0].usd_per_mtok.blended if rows else blended, blended),
            )
        )
    return tuple(rows)


def bars(rows: Sequence[Row]) -> tuple[Bar, ...]:
    """The chart: the first row's total, one step for each lever, the last row's total. Steps sum to last - first."""
    if not rows:
        return ()
    levels = [row.usd_per_mtok.blended for row in rows]
    steps = [
        Bar(row.lever, above, level, False) for row, (above, level) in zip(rows[1:], pairwise(levels), strict=True)
    ]
    first = Bar(rows[0].lever, Decimal(0), levels[0], True)
    return (first, *steps, Bar("with every lever", Decimal(0), levels[-1], True)) if steps else (first,)


def _usd_per_mtok(host: HostCost, num_tokens: int, seconds: Decimal) -> Decimal:
    """0 where there are no tokens: nothing was asked for, nothing is charged."""
    return host.usd_per_mtok(num_tokens, seconds) if num_tokens else Decimal(0)


def _factor(before: Decimal, after: Decimal) -> Decimal:
    return before / after if after else Decimal(1)

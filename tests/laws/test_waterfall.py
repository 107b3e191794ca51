"""Law 3: money and time are conserved. Parts sum to wholes exactly, bars telescope."""

import itertools
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.economics.waterfall import Measured, bars, scaled, split_seconds, waterfall

seconds = st.floats(0, 1e5, allow_nan=False)
usages = st.builds(
    Usage, st.integers(1, 10**9), st.just(0), st.integers(0, 10**9), st.floats(0, 1e5), st.floats(0, 1e5)
)
measured = st.builds(Measured, st.text(max_size=5), usages, st.floats(1e-3, 1e5))
prices = st.decimals("0.0001", "1000", places=4)


@given(usages, seconds)
def test_seconds_of_input_and_output_sum_to_the_whole(usage: Usage, wall_s: float) -> None:
    input_s, output_s = split_seconds(usage, wall_s)
    assert input_s >= 0
    assert output_s >= 0
    assert input_s + output_s == Decimal(wall_s).quantize(Decimal("1e-6"))


@given(st.lists(measured, max_size=8), prices)
def test_bars_telescope_to_the_total(items: list[Measured], usd_per_hour: Decimal) -> None:
    rows = waterfall(items, HostCost(usd_per_hour))
    chart = bars(rows)
    assert len(chart) == (0 if not rows else 1 if len(rows) == 1 else len(rows) + 1)
    if not rows:
        return
    steps = [bar for bar in chart if not bar.is_total]
    assert chart[0].end + sum((bar.end - bar.start for bar in steps), Decimal(0)) == chart[-1].end
    assert chart[-1].end == rows[-1].usd_per_mtok.blended
    for bar, following in itertools.pairwise(chart[:-1]):
        assert bar.end == following.start


@given(st.lists(measured, min_size=1, max_size=8), prices)
def test_factors_multiply_to_the_factor_against_the_first(items: list[Measured], usd_per_hour: Decimal) -> None:
    product = Decimal(1)
    for row in waterfall(items, HostCost(usd_per_hour)):
        if row.usd_per_mtok.blended <= Decimal("1e-6"):
            return  # its price has too few digits left, and so has every factor behind it
        product *= row.factor_previous
        assert abs(product / row.factor_first - 1) < Decimal("1e-5")


@given(measured, prices)
def test_input_and_output_cost_sum_to_the_blended_cost(item: Measured, usd_per_hour: Decimal) -> None:
    (row,) = waterfall([item], HostCost(usd_per_hour))
    parts = row.usd_per_mtok.input * row.input_tokens + row.usd_per_mtok.output * row.output_tokens
    if row.output_tokens == 0:
        parts += usd_per_hour * row.output_s * 1_000_000 / 3600  # seconds of answers that are empty
    whole = row.usd_per_mtok.blended * (row.input_tokens + row.output_tokens)
    assert abs(parts - whole) <= Decimal("1e-12") * (row.input_tokens + row.output_tokens) * 2
    assert abs(row.cost_usd - usd_per_hour * row.seconds / 3600) <= Decimal("1e-12")


@given(st.integers(1, 50), st.floats(1, 100), st.floats(1, 100))
def test_a_scaled_row_is_the_next_row_times_the_samples_ratio(times: int, input_s: float, output_s: float) -> None:
    following = Measured("with", Usage(1000, 0, 100, input_s, output_s), input_s + output_s)
    sample = Measured("without", Usage(100, 0, 10, 2.0, 1.0 * times), 2.0 + times)
    on_sample = Measured("with", Usage(100, 0, 10, 2.0, 1.0), 3.0)
    row = scaled("without", sample, on_sample, following)
    assert abs(row.usage.input_s - input_s) < 1e-3
    assert abs(row.usage.output_s / (output_s * times) - 1) < 1e-3
    assert row.usage.input_tokens == 1000

"""The bill's figures by hand: levers of one row each, what is left out, the forecast, stale prices, its bounds."""

import io
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from farthing.errors import InvalidRequest
from farthing.ledger.row import Row
from farthing.report import bill_sums
from farthing.report.bill import NOBODY, Bill, collect
from farthing.report.bill_forecast import Forecast, forecast
from farthing.report.bill_json import to_json
from farthing.report.bill_period import Period, moment_us, parse_period
from farthing.report.bill_terminal import print_bill
from farthing.report.bill_words import exact, money, notes, shown
from tests.report.ledger_rows import MONTH, NOW, hit, local, row, unpriced

DAY_US = 86_400_000_000


def levers(*rows: Row) -> dict[str, int]:
    return {name: pico for name, pico in collect(rows, MONTH).levers.items() if pico}


def test_a_hit_saves_its_baseline() -> None:
    assert levers(hit()) == {"response_cache": 90_000_000}


def test_local_compute_and_the_prefix_cache() -> None:
    # 400 tokens were computed for 20 million pico-dollars, 600 were found: computing them too had cost 30 million.
    assert levers(local()) == {"local_compute": 10_000_000, "prefix_cache": 30_000_000}


def test_a_dear_local_answer_is_a_negative_lever() -> None:
    assert levers(local(cache_read_tokens=0, output_pico=100_000_000)) == {"local_compute": -30_000_000}


def test_the_providers_prompt_cache() -> None:
    cached = row(cache_read_tokens=800, input_pico=10_000_000, cache_read_pico=4_000_000)
    assert levers(cached) == {"prompt_cache": 36_000_000}
    written = row(cache_write_tokens=800, input_pico=10_000_000, cache_write_pico=50_000_000)
    assert levers(written) == {"prompt_cache": -10_000_000}


def test_another_model_and_its_prompt_cache() -> None:
    cached = row(
        cache_read_tokens=800,
        input_pico=10_000_000,
        cache_read_pico=4_000_000,
        baseline_model="large",
        baseline_pico=500_000_000,
    )
    assert levers(cached) == {"cheaper_model": 410_000_000, "prompt_cache": 36_000_000}


def test_a_dearer_model_and_no_plain_token_to_go_by() -> None:
    given = row(cache_read_tokens=1000, input_pico=0, cache_read_pico=5_000_000, baseline_model="x", baseline_pico=1)
    assert levers(given) == {"cheaper_model": 1 - 45_000_000}


def test_failed_attempts_are_a_loss_and_their_request_costs_more() -> None:
    bill = collect([row(1, status="error", request_id="q"), row(2, attempt=1, request_id="q")], MONTH)
    assert bill.levers["failed_attempts"] == -90_000_000
    assert bill.total.saving_pico == -90_000_000
    assert bill.total.failed_baseline_pico == 90_000_000
    assert (bill.total.num_requests, bill.total.num_rows) == (1, 2)
    assert bill.request_cost.num == 1
    assert bill.request_cost.at(0.5) == pytest.approx(180_000_000, rel=0.01)


def test_rows_without_price_or_baseline_are_said_and_never_zero() -> None:
    bill = collect([row(1), unpriced(2), unpriced(3), row(4, baseline_pico=None)], MONTH)
    total = bill.total
    assert (total.cost_pico, total.compared_pico, total.baseline_pico) == (180_000_000, 90_000_000, 90_000_000)
    assert (total.num_unpriced, total.num_without_baseline) == (2, 1)
    said = " ".join(notes(bill))
    assert "plus 2 rows without a price" in said
    assert "1 rows have no baseline" in said
    assert bill.groups["model"].by_name["mystery"].num_unpriced == 2


def test_estimated_aborted_and_killed_are_said() -> None:
    rows = [row(1, usage_source="estimated", status="aborted"), row(2, status="killed"), row(3)]
    said = " ".join(notes(collect(rows, MONTH)))
    assert "1 rows have estimated usage, $0.0000900 (33.3% of the spend)" in said
    assert "0 attempts failed, 1 were killed, 1 aborted by the client" in said


def test_groups_by_tag_key_and_day() -> None:
    rows = [row(1, tags=("a", "b", "a")), row(2, tags=()), row(3, key_id=None, started_us=MONTH.since_us)]
    bill = collect(rows, MONTH, ["tag", "day"])
    assert {name: sums.num_rows for name, sums in bill.groups["tag"].by_cost()} == {"a": 1, "b": 1, NOBODY: 1, "web": 1}
    assert {name: sums.num_rows for name, sums in bill.groups["key"].by_cost()} == {"k1": 2, NOBODY: 1}
    assert {name for name, _ in bill.groups["day"].by_cost()} == {"2026-11-20", "2026-11-01"}


def test_too_many_names_are_added_up_as_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bill_sums, "MAX_GROUPS", 3)
    found = collect([row(num, served_model=f"m{num}") for num in range(10)], MONTH).groups["model"].by_cost()
    assert found[-1][0] == "(other)"
    assert (len(found), found[-1][1].num_rows) == (4, 7)


def test_a_stream_of_rows_takes_bounded_memory() -> None:
    def many(num: int) -> Iterator[Row]:
        for index in range(num):
            yield row(index, key_id=f"k{index % 50}", first_token_us=index, status="ok" if index % 3 else "error")

    def peak(num: int) -> int:
        tracemalloc.start()
        collect(many(num), MONTH, ["tag", "day"])
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(100)
    small, large = peak(1_000), peak(8_000)
    assert large < small + 2_000_000  # what failed and was not answered is kept for a while, rows are not


def test_hostile_names_reach_no_terminal() -> None:
    bad = "\x1b]0;title\x07[bold]\u202e\n"
    out = io.StringIO()
    bill = collect([row(1, served_model=bad, key_id=bad, tags=(bad,), project=bad)], MONTH, ["tag", "project"])
    console = Console(file=out, markup=False, emoji=False, highlight=False, soft_wrap=True)
    print_bill(bill, ["model", "key", "tag", "project", "lever"], [{"budget of": bad}], console)
    assert not {"\x1b", "\x07", "\u202e"} & set(out.getvalue())
    assert out.getvalue().count("\\x1b]0;title\\x07[bold]\\u202e\\n") == 5


def days(*amounts: int, before: datetime = NOW) -> dict[str, int]:
    return {f"{before - timedelta(days=back + 1):%Y-%m-%d}": amount for back, amount in enumerate(amounts)}


def test_an_even_spend_is_forecast_to_the_month_end() -> None:
    found = forecast(days(*[10**12] * 24), MONTH)
    assert isinstance(found, Forecast)
    assert found.num_days == 23  # the first was perhaps not a whole one
    assert found.spent_pico == 24 * 10**12
    assert found.expected_pico == found.low_pico == found.high_pico == 24 * 10**12 + 55 * 10**11
    assert "mean of the last 23 whole days" in found.method


def test_an_uneven_spend_has_a_range_that_never_falls_below_what_is_spent() -> None:
    found = forecast(days(0, 5 * 10**12, 0, 0, 9 * 10**12, 1), MONTH)
    assert isinstance(found, Forecast)
    assert found.spent_pico == found.low_pico < found.expected_pico < found.high_pico


def test_no_forecast_where_there_is_too_little_or_another_period() -> None:
    assert forecast(days(1, 2, 3), MONTH) == "no forecast: 2 whole days are known, it needs 3"
    assert forecast({}, MONTH) == "no forecast: nothing was spent yet"
    over = Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), NOW)
    late = Period(datetime(2026, 11, 20, tzinfo=UTC), NOW, NOW)
    assert "is not the month" in str(forecast(days(*[1] * 20), over))
    assert "is not the month" in str(forecast(days(*[1] * 20), late))


def test_days_before_the_period_teach_the_forecast() -> None:
    first = datetime(2026, 11, 2, 12, tzinfo=UTC)
    period = Period(datetime(2026, 11, 1, tzinfo=UTC), first, first)
    rows = [row(1, started_us=moment_us(first) - DAY_US)]
    history = [row(num, started_us=moment_us(first) - num * DAY_US) for num in range(2, 12)]
    assert isinstance(collect(rows, period).forecast, str)
    found = collect(rows, period, history=history).forecast
    assert isinstance(found, Forecast)
    assert found.spent_pico == 90_000_000
    assert found.num_days == 10


def test_a_stale_price_is_named_by_the_age_it_had() -> None:
    old = "prices.toml, valid from 2026-01-05, gpt-4o-2024-08-06 at openai"
    fresh = "genai-prices 0.2.3, released 2026-11-10, gpt-4o-2024-08-06 at openai"
    bill = collect([row(1, price_version=old), row(2, price_version=old), row(3, price_version=fresh)], MONTH)
    [stale] = bill.stale
    assert (stale.version, stale.num_rows, stale.cost_pico) == (old, 2, 180_000_000)
    assert "this price is 319 days old (prices.toml, valid from 2026-01-05)" in " ".join(notes(bill))


def test_json_has_pico_dollars_beside_exact_dollars() -> None:
    bill = collect([row(1, input_pico=1, output_pico=0, baseline_pico=3)], MONTH)
    document = to_json(bill)
    assert document["total"]["cost_pico"] == 1
    assert document["total"]["cost_usd"] == "0.000000000001"
    assert document["by"]["model"][0]["saving_usd"] == "0.000000000002"
    assert document["forecast"]["month"] == "2026-11"
    assert document["forecast"]["spent_pico"] == 1


def test_amounts_and_names_in_words() -> None:
    assert [exact(pico) for pico in (0, 1, 10**12, -15 * 10**11, 10**24)] == [
        "0",
        "0.000000000001",
        "1",
        "-1.5",
        "1000000000000",
    ]
    assert [money(pico) for pico in (0, 1, 123_456, -5 * 10**12)] == [
        "$0.00",
        "$0.000000000001",
        "$0.000000123",
        "−$5.00",
    ]
    assert shown("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert len(shown("x" * 300)) == 48


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("2026-11-05", "2026-11-05", None), "is not before"),
        (("2026-11-06", "2026-11-05", None), "is not before"),
        (("yesterday", None, None), "write a day like"),
        ((None, None, "2026-13"), "--month"),
        ((None, None, "November"), "write a month like"),
        (("2026-11-01", None, "2026-11"), "leave out --since"),
    ],
)
def test_periods_that_are_none(given: tuple[str | None, str | None, str | None], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_period(*given, NOW)


def test_periods() -> None:
    assert parse_period(None, None, None, NOW).since == datetime(2026, 11, 1, tzinfo=UTC)
    month = parse_period(None, None, "2026-12", NOW)
    assert (month.since, month.until) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    zone = parse_period("2026-11-01T02:00+02:00", "2026-11-02", None, NOW)
    assert zone.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert isinstance(Bill(zone).days, dict)

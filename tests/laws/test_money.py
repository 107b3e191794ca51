"""Law 3, the money half: line items sum to totals exactly, every token is billed once, the past keeps its price."""

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics.price_file import Override, override_price
from farthing.economics.prices import MAX_TOKENS, Price, Rate, Source, TokenCounts, usd_text

amounts = st.decimals(0, 100_000, places=12)
rates = st.builds(
    lambda base, tiers: Rate(base, tuple(sorted(tiers.items()))),
    amounts,
    st.dictionaries(st.integers(0, MAX_TOKENS), amounts, max_size=3),
)
prices = st.builds(
    Price,
    st.just("model"),
    st.just("provider"),
    st.just(Source("test", date(2026, 1, 1), "checked")),
    *[rates] * 5,
    usd_per_request=st.none() | amounts,
)


@st.composite
def token_counts(draw: st.DrawFn) -> TokenCounts:
    total = draw(st.integers(0, MAX_TOKENS))
    read = draw(st.integers(0, total))
    write = draw(st.integers(0, total - read))
    return TokenCounts(total, draw(st.integers(0, MAX_TOKENS)), read, write, draw(st.integers(0, write)))


@given(prices, token_counts())
@settings(max_examples=300, deadline=None)
def test_items_sum_to_the_total_exactly(price: Price, counts: TokenCounts) -> None:
    bill = price.bill(counts)
    assert sum((Fraction(item.usd) for item in bill.items), Fraction(0)) == Fraction(bill.total_usd)
    for item in bill.items:
        if item.name != "request":
            assert Fraction(item.usd) == Fraction(item.usd_per_mtok) * item.tokens / 1_000_000


@given(prices, token_counts())
@settings(max_examples=200, deadline=None)
def test_every_token_is_in_exactly_one_item(price: Price, counts: TokenCounts) -> None:
    tokens = {item.name: item.tokens for item in price.bill(counts).items}
    output = tokens.pop("output")
    assert output == counts.output_tokens
    assert sum(tokens.values()) == counts.input_tokens


@given(prices, token_counts())
@settings(max_examples=200, deadline=None)
def test_what_is_printed_sums_too(price: Price, counts: TokenCounts) -> None:
    bill = price.bill(counts)
    *items, total = usd_text(*(item.usd for item in bill.items), bill.total_usd)
    assert sum((Fraction(item) for item in items), Fraction(0)) == Fraction(total)


@given(
    st.lists(st.tuples(st.dates(date(2025, 1, 1), date(2026, 12, 31)), amounts), max_size=6),
    st.dates(date(2025, 1, 1), date(2026, 12, 31)),
    amounts,
)
@settings(max_examples=300, deadline=None)
def test_a_new_price_never_changes_the_past(history: list[tuple[date, Decimal]], start: date, usd: Decimal) -> None:
    def entries(prices: list[tuple[date, Decimal]]) -> tuple[Override, ...]:
        return tuple(
            Override("m", None, day, Source(str(Path("p")), day, "valid from"), {"input": Rate(price)}, None, None)
            for day, price in prices
        )

    def price_on(prices: list[tuple[date, Decimal]], day: date) -> Rate | None:
        found = override_price(entries(prices), "m", datetime(day.year, day.month, day.day, tzinfo=UTC), None, False)
        return found and found.input

    for day, _ in [*history, (date(2025, 1, 1), Decimal(0))]:
        if day < start:
            assert price_on([*history, (start, usd)], day) == price_on(history, day)
    assert price_on([*history, (start, usd)], start) == Rate(usd)

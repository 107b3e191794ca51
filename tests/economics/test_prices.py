"""Prices: the worked examples checked against the package and a second source, and the errors others have made."""

import socket
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics import price_sources
from farthing.economics.prices import PriceBook, Rate, Source, TokenCounts, usd_text
from farthing.errors import InvalidRequest, PriceError, UnknownModel

NOW = datetime(2026, 11, 22, tzinfo=UTC)
GEMINI = "gemini-3.1-pro-preview"
BOOK = PriceBook()


def total(model: str, counts: TokenCounts, provider: str | None = None, batch: bool = False) -> Decimal:
    return BOOK.find(model, at=NOW, provider=provider, batch=batch).bill(counts).total_usd


@pytest.mark.parametrize(
    ("counts", "usd"),
    [
        (TokenCounts(50_000, 2_000), "0.124"),
        (TokenCounts(200_000), "0.40"),
        (TokenCounts(200_000, 2_000), "0.424"),  # exactly at the threshold: the lower tier
        (TokenCounts(200_001, 2_000), "0.836004"),  # the cliff: the whole request, output too
        (TokenCounts(250_000, 2_000, cache_read_tokens=100_000), "0.676"),
    ],
)
def test_worked_examples(counts: TokenCounts, usd: str) -> None:
    assert total(GEMINI, counts) == Decimal(usd)


def test_the_bill_of_the_first_example() -> None:
    items = BOOK.find(GEMINI, at=NOW, provider="google").bill(TokenCounts(50_000, 2_000)).items
    assert [(item.name, item.tokens, item.usd) for item in items] == [
        ("input", 50_000, Decimal("0.100")),
        ("output", 2_000, Decimal("0.024")),
    ]
    assert usd_text(*(item.usd for item in items)) == ["0.100", "0.024"]


def test_batch_and_reseller() -> None:
    assert total(GEMINI, TokenCounts(50_000, 2_000), batch=True) == Decimal("0.062")
    assert total(f"google/{GEMINI}", TokenCounts(50_000, 2_000), provider="openrouter") == Decimal("0.124")
    assert total(f"openrouter/google/{GEMINI}", TokenCounts(50_000, 2_000)) == Decimal("0.124")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pricing opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    assert total(GEMINI, TokenCounts(50_000, 2_000)) == Decimal("0.124")


PRICED = [
    (provider.id, model.id)
    for provider in providers
    for model in provider.models
    if getattr(model.get_prices(NOW), "input_mtok", None) is not None
    and getattr(model.get_prices(NOW), "output_mtok", None) is not None
]


@given(st.sampled_from(PRICED), st.integers(0, 600_000), st.integers(0, 100_000), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_the_package_itself_comes_to_the_same_total(
    name: tuple[str, str], input_tokens: int, output_tokens: int, cached: float
) -> None:
    provider, model = name
    price = BOOK.find(model, at=NOW, provider=provider)
    cache_read = int(input_tokens * cached) if price.cache_read else 0
    theirs = next(entry for p in providers if p.id == provider for entry in p.models if entry.id == model)
    usage = genai_prices.Usage(input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cache_read)
    expected = theirs.get_prices(NOW).calc_price(usage)["total_price"]
    assert price.bill(TokenCounts(input_tokens, output_tokens, cache_read)).total_usd == expected


def test_every_name_the_package_lists_is_found() -> None:
    for provider, model in PRICED:
        assert BOOK.find(model, at=NOW, provider=provider).model.lower() == model.lower()


# What others got wrong, and got bills for.


def test_cached_tokens_are_billed_once_and_at_their_own_rate() -> None:
    bill = BOOK.find("claude-opus-5-5", at=NOW).bill(TokenCounts(1_000_000, 0, cache_read_tokens=900_000))
    by_name = {item.name: item for item in bill.items}
    assert (by_name["input"].tokens, by_name["cache_read"].tokens) == (100_000, 900_000)
    assert by_name["cache_read"].usd_per_mtok < by_name["input"].usd_per_mtok
    assert bill.total_usd == Decimal("0.4") + Decimal("0.18")


def test_cache_writes_of_five_minutes_and_of_an_hour_differ() -> None:
    price = BOOK.find("claude-haiku-4-5", at=NOW)
    five_minutes = price.bill(TokenCounts(1_000_000, 0, cache_write_tokens=1_000_000)).total_usd
    an_hour = price.bill(TokenCounts(1_000_000, 0, 0, 1_000_000, cache_write_1h_tokens=1_000_000)).total_usd
    assert (five_minutes, an_hour) == (Decimal("1.25"), Decimal("2"))


def test_the_tier_follows_input_not_output_and_counts_cached_input() -> None:
    price = BOOK.find(GEMINI, at=NOW)
    assert price.tier(200_000) is None
    assert price.tier(200_001) == 200_000
    output = price.bill(TokenCounts(1, 300_000)).items[-1]
    assert output.usd_per_mtok == 12
    cached = price.bill(TokenCounts(300_000, 1, cache_read_tokens=299_999)).items
    assert [item.usd_per_mtok for item in cached] == [4, Decimal("0.4"), 18]


def test_measured_zero_is_zero_and_unknown_is_an_error() -> None:
    assert total(GEMINI, TokenCounts(0, 0)) == 0
    with pytest.raises(PriceError, match="no cache-read price is known for 'qwen/qwen3-8b'"):
        total("qwen/qwen3-8b", TokenCounts(10, 0, cache_read_tokens=5), provider="openrouter")
    with pytest.raises(PriceError, match="no output price"):
        total("text-embedding-3-small", TokenCounts(10, 5), provider="openai")


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("gemini-3.1-pro-previeww", GEMINI),  # the package alone takes this for the real name
        ("gemini-3.1-pro-preview-x", GEMINI),
        ("gemini-3.1-pro", GEMINI),
        ("claude-haiku-4-55", "claude-haiku-4-5"),
        ("gpt-5-nanoo", "gpt-5-nano"),
    ],
)
def test_a_typo_is_never_another_models_price(typo: str, nearest: str) -> None:
    with pytest.raises(UnknownModel, match=f"nearest: .*{nearest}"):
        BOOK.find(typo, at=NOW)


def test_an_alias_and_a_dated_name_are_the_model_they_mean() -> None:
    for alias, model in [
        ("gemini-pro-latest", GEMINI),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("gpt-5.2-20251211", "gpt-5.2"),
        ("anthropic/claude-opus-4-7", "claude-opus-4-7"),
    ]:
        assert BOOK.find(alias, at=NOW).model == model


def test_unknown_and_ambiguous_providers() -> None:
    with pytest.raises(PriceError, match="provider 'openrooter' is not known; nearest: openrouter"):
        BOOK.find(GEMINI, at=NOW, provider="openrooter")
    with pytest.raises(PriceError, match=r"several providers.*--provider: .*openai"):
        BOOK.find("text-embedding-3-small", at=NOW)
    with pytest.raises(UnknownModel, match="at groq; nearest"):
        BOOK.find(GEMINI, at=NOW, provider="groq")


def test_a_batch_price_that_is_not_known_is_not_the_full_price() -> None:
    with pytest.raises(PriceError, match="no batch price is known"):
        BOOK.find("qwen/qwen3-8b", at=NOW, provider="openrouter", batch=True)
    with pytest.raises(PriceError, match="known from 2026-10-14 on, not at 2026-09-01"):
        BOOK.find(GEMINI, at=datetime(2026, 9, 1), batch=True)


def test_a_price_not_in_tokens() -> None:
    with pytest.raises(PriceError, match="not priced in tokens"):
        BOOK.find("whisper-large-v3", at=NOW, provider="groq")


@pytest.mark.parametrize(
    "counts",
    [
        {"input_tokens": -1},
        {"output_tokens": 10**16},
        {"input_tokens": 5, "cache_read_tokens": 6},
        {"input_tokens": 5, "cache_read_tokens": 3, "cache_write_tokens": 3},
        {"input_tokens": 5, "cache_write_tokens": 2, "cache_write_1h_tokens": 3},
    ],
)
def test_counts_that_cannot_be(counts: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        TokenCounts(**counts)


def test_the_source_says_version_and_date_and_warns_when_old(monkeypatch: pytest.MonkeyPatch) -> None:
    source = BOOK.find(GEMINI, at=NOW).source
    assert source.text.startswith(f"genai-prices {genai_prices.__version__}, ")
    assert source.warning(source.dated + timedelta(days=90)) is None
    assert "91 days old" in (source.warning(source.dated + timedelta(days=91)) or "")
    monkeypatch.setattr(price_sources, "RELEASED", {})
    undated = BOOK.find(GEMINI, at=NOW).source
    assert undated.dated_by == "release date not known, its newest price is of"
    assert date(2026, 10, 1) < undated.dated <= NOW.date()


# The user's own file.

OWN = """
[[price]]
model = "My-Model"
from = 2026-01-01
input = 0.25
output = 1.00

[[price]]
model = "my-model"
from = 2026-06-01
checked = 2026-11-20
input = 0.20
output = 0.80
cache_read = 0.02
per_request = 0.001
batch = { input = 0.10, output = 0.40 }
tiers = [{ above = 1000, input = 0.40, output = 1.60, cache_read = 0.04 }]

[[price]]
model = "gemini-3.1-pro-preview"
provider = "google"
from = 2026-11-01
input = 1
output = 6
"""


@pytest.fixture
def own(tmp_path: Path) -> PriceBook:
    (tmp_path / "prices.toml").write_text(OWN)
    return PriceBook.load(tmp_path / "prices.toml")


def test_of_dated_entries_the_one_valid_at_the_date_counts(own: PriceBook) -> None:
    spring = own.find("my-model", at=datetime(2026, 3, 1))
    assert (spring.input, spring.source.dated, spring.source.dated_by) == (
        Rate(Decimal("0.25")),
        date(2026, 1, 1),
        "valid from",
    )
    autumn = own.find("MY-MODEL", at=NOW)
    assert autumn.bill(TokenCounts(1000, 1000)).total_usd == Decimal("0.002")  # 0.0002 + 0.0008 + 0.001
    assert autumn.bill(TokenCounts(1001, 0)).items[0].usd_per_mtok == Decimal("0.40")
    assert autumn.source.text.endswith("prices.toml, checked 2026-11-20")
    with pytest.raises(UnknownModel):
        own.find("my-model", at=datetime(2025, 12, 31))


def test_own_prices_come_before_the_packages(own: PriceBook) -> None:
    assert own.find(GEMINI, at=NOW).bill(TokenCounts(50_000, 2_000)).total_usd == Decimal("0.062")
    assert own.find(GEMINI, at=datetime(2026, 10, 31)).source.name.startswith("genai-prices")
    assert own.find(f"google/{GEMINI}", at=NOW, provider="openrouter").source.name.startswith("genai-prices")


def test_own_batch_price(own: PriceBook) -> None:
    assert own.find("my-model", at=NOW, batch=True).bill(TokenCounts(10**6)).items[0].usd == Decimal("0.1")
    with pytest.raises(PriceError, match="no batch price is stated"):
        own.find(GEMINI, at=NOW, batch=True)


def test_a_typo_may_mean_an_own_model(own: PriceBook) -> None:
    with pytest.raises(UnknownModel, match="nearest: my-model"):
        own.find("my-modell", at=NOW)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[price]", "not valid TOML"),
        ("[price]\nmodel = 'a'", "two brackets"),
        ("prices = 1", "unknown key 'prices'; nearest: price"),
        ("[[price]]\nmodel = 'a'\ninput = 1", "from = YYYY-MM-DD"),
        ("[[price]]\nmodel = 'a'\nfrom = '2026-01-01'\ninput = 1", "without quotes"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01", "states no price"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninptu = 1", "entry 1: unknown key 'inptu'; nearest: input"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = -1", "0 or more"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = nan", "0 or more"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = '1'", "write a number"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = 0.00000025", "per MILLION"),  # typed per token
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = 2500000", "per MILLION"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = 1\ntiers = [{ above = 5 }]", "same prices"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = 1\ntiers = [{ input = 5 }]", "whole number"),
        ("[[price]]\nmodel = 'a'\nfrom = 2026-01-01\ninput = 1\nbatch = 2", "batch ="),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_place(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PriceError, match=complaint) as error:
        PriceBook.load(path)
    assert "mine.toml" in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PriceError, match=r"none\.toml cannot be read"):
        PriceBook.load(tmp_path / "none.toml")


def test_source_text() -> None:
    assert Source("file.toml", date(2026, 1, 1), "checked").text == "file.toml, checked 2026-01-01"

"""This machine's cost: the worked examples, both kinds of cost, and where hosted prices meet it."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from farthing.economics.cost import DEFAULT_HOSTED, HostCost, break_even_utilisation, hosted_costs
from farthing.economics.prices import PriceBook
from farthing.economics.usage import Usage
from farthing.errors import InvalidRequest, UnknownModel

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def usd(text: str) -> Decimal:
    return Decimal(text)


@pytest.mark.parametrize(
    ("usd_per_hour", "tokens_per_s", "utilisation", "expected"),
    [
        ("0.05", 10, "1", "1.39"),
        ("0.085", 30, "1", "0.79"),
        ("0.085", 100, "1", "0.24"),
        ("2.50", 50, "1", "13.89"),  # a published calculator says 0.14
        ("0.05", 10, "0.5", "2.78"),
    ],
)
def test_full_cost_per_million_tokens(usd_per_hour: str, tokens_per_s: int, utilisation: str, expected: str) -> None:
    host = HostCost(usd(usd_per_hour), usd(utilisation))
    assert round(host.usd_per_mtok(tokens_per_s * 3600, 3600), 2) == usd(expected)
    assert round(host.usd_per_mtok(tokens_per_s, 1.0), 2) == usd(expected)


def test_marginal_cost_is_energy_alone() -> None:
    host = HostCost(watts=usd("65"), usd_per_kwh=usd("0.15"))
    assert round(host.energy_usd_per_mtok(30, 1) or 0, 2) == usd("0.09")
    assert host.energy_usd(3600) == usd("0.00975")
    assert host.usd(3600) == usd("0.0765")
    assert HostCost().energy_usd(3600) is None


def test_the_default_says_where_it_comes_from() -> None:
    assert HostCost().usd_per_hour == usd("0.0765")
    assert "c6a.large" in HostCost().source
    assert HostCost(usd("0.05")).source == "as given"


@pytest.mark.parametrize(
    "values",
    [
        {"usd_per_hour": "-1"},
        {"usd_per_hour": "nan"},
        {"usd_per_hour": "1e9"},
        {"utilisation": "0"},
        {"utilisation": "1.01"},
        {"watts": "65"},
        {"watts": "-5", "usd_per_kwh": "0.1"},
        {"usd_per_kwh": "0.1"},
    ],
)
def test_values_out_of_range(values: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        HostCost(**{name: Decimal(value) for name, value in values.items()})


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e12])
def test_seconds_out_of_range(seconds: float) -> None:
    with pytest.raises(InvalidRequest, match="seconds"):
        HostCost().usd(seconds)


def test_no_tokens_have_no_price_per_token() -> None:
    with pytest.raises(InvalidRequest, match="at least one"):
        HostCost().usd_per_mtok(0, 1)


def test_at_the_break_even_utilisation_both_cost_the_same() -> None:
    seconds, hosted = usd("100"), usd("0.01")
    share = break_even_utilisation(HostCost(), seconds, hosted)
    assert share is not None
    assert share == usd("0.2125")
    assert HostCost(utilisation=share).usd(seconds) == hosted
    assert break_even_utilisation(HostCost(), seconds, usd("0.001")) == usd("2.125")  # dearer even when fully used
    assert break_even_utilisation(HostCost(), seconds, usd("0")) is None


def test_three_hosted_models_from_small_to_frontier() -> None:
    found = hosted_costs(Usage(10_000, 3_000, 5_000), at=NOW)
    assert tuple(cost.price.model for cost in found) == DEFAULT_HOSTED
    assert found[0].usd < found[1].usd < found[2].usd
    small = found[0]
    assert small.usd == usd("0.0025")  # 10,000 at 0.05 and 5,000 at 0.40
    assert small.usd_with_cache == usd("0.002365")  # 3,000 of them at 0.005
    assert round(small.usd_per_mtok, 6) == usd("0.166667")


def test_many_requests_added_do_not_reach_an_upper_tier() -> None:
    (cost,) = hosted_costs(Usage(1_000_000, 0, 0), ["gemini-3.1-pro-preview"], at=NOW)
    assert cost.usd == 2


def test_hosted_models_of_ones_own_and_unknown_ones(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[[price]]\nmodel = "mine"\nfrom = 2026-01-01\ninput = 1\noutput = 2\n')
    (cost,) = hosted_costs(Usage(1_000_000, 10, 0), ["mine"], at=NOW, book=PriceBook.load(path))
    assert (cost.usd, cost.usd_with_cache) == (1, None)
    with pytest.raises(UnknownModel):
        hosted_costs(Usage(1, 0, 0), ["mine"], at=NOW)
    with pytest.raises(InvalidRequest):
        hosted_costs(Usage(), at=NOW)

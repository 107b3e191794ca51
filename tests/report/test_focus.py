"""The FOCUS export: the specification's columns, types and allowed values, row by row."""

import csv
import io
import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest

from farthing.economics.charge import pico
from farthing.errors import FarthingError
from farthing.ledger.row import Row
from farthing.report.focus import COLUMNS, cell, export, focus_rows
from tests.report.ledger_rows import PLAIN, hit, local, row, unpriced

# Of FOCUS 1.2: the columns whose feature level is Mandatory; the first ones may be null.
NULLABLE = {"BillingAccountName", "ChargeClass", "ChargeDescription", "PricingQuantity", "PricingUnit"}
MANDATORY = NULLABLE | {
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory",
    "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip
DECIMALS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "PricingQuantity", "ConsumedQuantity")
RECOMMENDED = "InvoiceId"  # null: no invoice is known when the call is made
TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")


def exported(*rows: Row, **names: str) -> list[dict[str, str]]:
    out = io.StringIO()
    export(rows, out, names)
    return list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))


def test_the_mandatory_columns_and_our_own() -> None:
    assert set(COLUMNS) >= MANDATORY | {RECOMMENDED}
    assert {line[RECOMMENDED] for line in exported(row(), local())} == {""}
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert all(re.fullmatch(r"(x_)?[A-Z][A-Za-z]+", name) for name in COLUMNS)


def test_every_row_obeys_the_specification() -> None:
    lines = exported(row(1, request_pico=5), hit(2), local(3), row(4, provider="", upstream="", status="aborted"))
    assert lines
    for line in lines:
        assert all(line[name] for name in MANDATORY - NULLABLE), line
        for name in TIMES:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line[name])
        assert (
            line["BillingPeriodStart"]
            <= line["ChargePeriodStart"]
            < line["ChargePeriodEnd"]
            <= line["BillingPeriodEnd"]
        )
        assert line["ChargeCategory"] == "Usage"
        assert line["ChargeClass"] == ""
        assert (line["ServiceCategory"], line["ServiceSubcategory"]) == ("AI and Machine Learning", "Generative AI")
        assert line["BillingCurrency"] == "USD"
        assert line["PricingUnit"] in ("Tokens", "Requests")
        assert line["PricingQuantity"] == line["ConsumedQuantity"]


@pytest.mark.parametrize("given", [row(1), row(2, request_pico=10**12), hit(3), local(4)])
def test_decimals_are_decimals_even_where_they_are_whole(given: Row) -> None:
    """The official validator (focus-validator 2.2.1) guesses types and fails a column of whole numbers."""
    for line in exported(given):
        for name in DECIMALS:
            assert re.fullmatch(r"\d+\.\d+", line[name]), name
        assert re.fullmatch(r"(\d+\.\d+)?", line["x_BaselineCost"])


def test_the_price_of_a_sku_says_what_it_is_for() -> None:
    """Of those who publish price lists FOCUS wants SkuPriceDetails: a flat object, own names with x_ before them."""
    lines = exported(row(served_model='a"b'), local())
    details = [json.loads(line["SkuPriceDetails"]) for line in lines]
    assert [tuple(detail) for detail in details] == [("x_Model", "x_TokenClass")] * len(lines)
    assert [detail["x_TokenClass"] for detail in details] == [line["x_TokenClass"] for line in lines]
    assert details[0]["x_Model"] == 'a"b'
    same = {(line["SkuPriceId"], line["SkuPriceDetails"]) for line in lines}
    assert len(same) == len({price for price, _ in same})


def test_one_row_for_each_class_of_tokens() -> None:
    given = row(
        cache_read_tokens=300,
        cache_write_tokens=200,
        input_pico=25_000_000,
        cache_read_pico=1_500_001,
        cache_write_pico=12_500_000,
        request_pico=7,
    )
    lines = exported(given)
    assert [(line["x_TokenClass"], line["PricingQuantity"], line["BilledCost"]) for line in lines] == [
        ("input", "500.0", "0.000025"),
        ("cache_read", "300.0", "0.000001500001"),
        ("cache_write", "200.0", "0.0000125"),
        ("output", "100.0", "0.00004"),
        ("request", "1.0", "0.000000000007"),
    ]
    assert sum(pico(Decimal(line["BilledCost"])) for line in lines) == given.cost_pico
    # What is said of the attempt as a whole stands on one row, so that the column can be added up.
    assert [line["x_InputTokens"] for line in lines] == ["1000", "", "", "", ""]
    assert [line["x_BaselineCost"] for line in lines] == ["0.00009", "", "", "", ""]


def test_who_what_and_why() -> None:
    [first, *_] = exported(row(tags=("team=a", "web")), k1="Anna")
    assert (first["SubAccountId"], first["SubAccountName"], first["x_Project"]) == ("k1", "Anna", "shop")
    assert json.loads(first["Tags"]) == {"team=a": True, "web": True}
    assert (first["x_Model"], first["x_RequestedModel"], first["x_RequestId"]) == ("gpt-5-nano", "nano", "q0")
    assert {line["x_Lever"] for line in exported(local())} == {"local_compute"}
    assert {(line["x_Lever"], line["x_CacheHit"]) for line in exported(hit())} == {("response_cache", "true")}
    assert {line["x_Lever"] for line in exported(row(status="error"))} == {"failed_attempts"}
    assert {line["ProviderName"] for line in exported(local())} == {"this machine"}


def test_an_attempt_without_tokens_still_has_a_row() -> None:
    [line] = exported(row(input_tokens=None, output_tokens=None, input_pico=0, output_pico=0))
    assert (line["BilledCost"], line["PricingQuantity"], line["PricingUnit"]) == ("0.0", "1.0", "Requests")


def test_a_row_without_a_price_is_counted_and_left_out() -> None:
    out = io.StringIO()
    told = export([unpriced(1), row(2), unpriced(3)], out, {})
    assert (told.num_rows, told.num_unpriced, told.cost_pico) == (1, 2, 90_000_000)
    assert "mystery" not in out.getvalue()


def test_parts_that_do_not_add_up_are_told() -> None:
    with pytest.raises(FarthingError, match="row r0 of the ledger: its parts do not add up"):
        list(focus_rows(replace(PLAIN, cost_pico=1), {}))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_a_name_is_no_formula(name: str) -> None:
    assert cell(name) == f"'{name}"
    lines = exported(row(served_model=name, asked_model=name, key_id=name, project=name, upstream=name, provider=name))
    for line in lines:
        assert not [value for value in line.values() if value.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert cell("gpt-5") == "gpt-5"

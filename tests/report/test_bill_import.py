"""Usage that others recorded: which it is, every form it comes in, what is named as bad, what it costs elsewhere."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from farthing.economics.charge import usd
from farthing.economics.prices import PriceBook
from farthing.errors import InvalidRequest, UnknownModel
from farthing.report.bill_elsewhere import Comparison, Local, compare, measured_local
from farthing.report.bill_import import Imported, Use, read_usage
from farthing.report.bill_import_table import import_json
from tests.report.ledger_rows import hit, local, row

NOW = datetime(2026, 11, 25, tzinfo=UTC)
RESULT = {
    "object": "organization.usage.completions.result",
    "input_tokens": 1_000_000,
    "input_cached_tokens": 800_000,
    "output_tokens": 500_000,
    "num_model_requests": 5,
    "project_id": None,
    "model": "gpt-5-nano-2025-08-07",
    "batch": None,
}
HEADER = (
    "start_time,end_time,project_id,num_model_requests,model,batch,service_tier,"
    "input_tokens,output_tokens,input_cached_tokens"
)
SPEND = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "spend": 0.00009,
    "total_tokens": 1100,
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "startTime": "2026-11-20T10:00:00.000Z",
    "model": "gpt-5-nano",
    "custom_llm_provider": "openai",
    "metadata": {"usage_object": {"prompt_tokens_details": {"cached_tokens": 0}}},
    "cache_hit": "False",
}


def bucket(*results: Any, start: int = 1763596800) -> dict[str, Any]:
    return {"object": "bucket", "start_time": start, "end_time": start + 86400, "results": list(results)}


def read(tmp_path: Path, text: str, name: str = "usage.txt") -> tuple[Imported, list[Use]]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    told, uses = read_usage(path)
    return told, list(uses)


def against(uses: list[Use], *models: str, local: Local | None = None) -> Comparison:
    return compare(uses, models, PriceBook(), NOW, local)


@pytest.mark.parametrize("indent", [None, 2])
def test_pages_of_openais_api(tmp_path: Path, indent: int | None) -> None:
    page = {"object": "page", "data": [bucket(RESULT, RESULT), bucket()], "has_more": True}
    text = json.dumps(page, indent=indent)
    for written in (text, f"[{text}, {text}]", text + "\n" + text):
        told, uses = read(tmp_path, written)
        assert told.source == "openai"
        assert (told.num_bad, len(uses)) == (0, 2 * written.count('"page"'))
    use = uses[0]
    assert (use.input_tokens, use.cache_read_tokens, use.output_tokens) == (1_000_000, 800_000, 500_000)
    assert (use.day, use.num_requests, use.is_aggregated) == ("2025-11-20", 5, True)


def test_the_dashboards_csv_with_its_floats_and_empty_days(tmp_path: Path) -> None:
    lines = [HEADER, "1763596800,1763683200,p,10.0,gpt-5-nano,FALSE,default,59200.0,10646.0,5760.0"]
    lines += ["1763683200,1763769600,,,,,,,,", "1763596800,,p,1,gpt-5-nano,TRUE,flex,100,10,0"]
    told, uses = read(tmp_path, "\n".join(lines) + "\n", "usage.csv")
    assert (told.source, told.num_rows, told.num_empty, told.num_bad) == ("openai", 3, 1, 0)
    assert (uses[0].input_tokens, uses[0].cache_read_tokens, uses[1].is_batch) == (59200, 5760, True)
    assert told.notes == {"service tier 'flex' is priced as the standard one"}
    told, uses = read(tmp_path, "\n".join(lines).replace(",", "\t"), "usage.tsv")
    assert len(uses) == 2


def test_openais_older_export(tmp_path: Path) -> None:
    entry = {
        "aggregation_timestamp": 1763596800,
        "n_requests": 2,
        "snapshot_id": "gpt-5-nano",
        "n_context_tokens_total": 118,
        "n_generated_tokens_total": 35,
        "n_cached_context_tokens_total": 18,
    }
    told, [use] = read(tmp_path, json.dumps({"object": "list", "data": [entry]}))
    assert (told.source, use.input_tokens, use.cache_read_tokens, use.output_tokens) == ("openai", 118, 18, 35)


@pytest.mark.parametrize("form", ["list", "lines", "page", "csv"])
def test_litellms_spend_logs_in_every_form(tmp_path: Path, form: str) -> None:
    other = SPEND | {"request_id": "2", "cache_hit": "True", "spend": 0}
    if form == "csv":
        import csv

        with (tmp_path / "logs").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(SPEND))
            writer.writeheader()
            writer.writerows({**one, "metadata": json.dumps(one["metadata"])} for one in (SPEND, other))
        text = (tmp_path / "logs").read_text()
    else:
        text = {
            "list": json.dumps([SPEND, other], indent=1),
            "lines": json.dumps(SPEND) + "\n\n" + json.dumps(other) + "\n",
            "page": json.dumps({"data": [SPEND, other], "total": 2}),
        }[form]
    told, uses = read(tmp_path, text)
    assert (told.source, told.num_rows, told.num_bad) == ("litellm", 2, 0)
    assert [use.is_hit for use in uses] == [False, True]
    assert uses[0].spend_usd == Decimal("0.00009")
    assert (uses[0].day, uses[0].provider, uses[0].is_aggregated) == ("2026-11-20", "openai", False)


def test_litellms_cached_tokens(tmp_path: Path) -> None:
    inside = SPEND | {
        "metadata": {"usage_object": {"cache_read_input_tokens": 300, "cache_creation_input_tokens": 100}}
    }
    outside = SPEND | {"metadata": json.dumps({"additional_usage_values": {"cache_read_input_tokens": 5000}})}
    unknown = SPEND | {"metadata": "not json"}
    told, uses = read(tmp_path, json.dumps([inside, outside, unknown]))
    assert [(use.input_tokens, use.cache_read_tokens, use.cache_write_tokens) for use in uses] == [
        (1000, 300, 100),
        (6000, 5000, 0),
        (1000, 0, 0),
    ]
    assert len(told.notes) == 2


def test_bad_rows_are_named_and_counted(tmp_path: Path) -> None:
    bad = [
        {k: v for k, v in SPEND.items() if k != "prompt_tokens"},
        SPEND | {"prompt_tokens": -5},
        SPEND | {"completion_tokens": "many"},
        SPEND | {"spend": "NaN"},
        SPEND | {"startTime": "soon"},
        SPEND | {"model": ""},
        "text",
        None,
        SPEND | {"prompt_tokens": 1.5},
    ]
    told, uses = read(tmp_path, json.dumps([SPEND, *bad]))
    assert (told.num_rows, told.num_bad, len(uses)) == (10, 9, 1)
    assert told.bad[0] == "usage.txt, entry 2: prompt_tokens is missing"
    assert "completion_tokens is 'many', not a number" in told.bad[2]
    assert "it is str, not a row" in told.bad[6]
    told, uses = read(tmp_path, json.dumps(SPEND) + "\n{broken\n" + json.dumps(SPEND) + "\n")
    assert len(uses) == 2
    assert told.bad[0].startswith("usage.txt, line 2: not valid JSON")
    told, uses = read(tmp_path, f"{HEADER}\n1,2,3\n1763596800,,p,1,gpt-5-nano,,,10,10,20\n")
    assert told.bad[0] == "usage.txt, line 2: it has not the header's 10 fields"
    assert "20 cached tokens are more than the 10 input tokens" in told.bad[1]


def test_openai_rows_that_were_not_grouped_by_model(tmp_path: Path) -> None:
    told, uses = read(tmp_path, json.dumps({"data": [bucket(RESULT | {"model": None})]}))
    assert uses == []
    assert "export the usage grouped by model" in told.bad[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no row in it"),
        ("[]", "there is no row in it"),
        ("a,b\n1,2\n", "neither OpenAI's usage export"),
        ('[{"a": 1}]', "its first row has a"),
        ('{"data": [', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_files_that_are_neither(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read(tmp_path, text)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_usage(tmp_path / "none")
    (tmp_path / "image").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InvalidRequest, match="not UTF-8 text"):
        read_usage(tmp_path / "image")


def test_what_it_cost_and_would_have_cost(tmp_path: Path) -> None:
    told, uses = read(tmp_path, json.dumps([SPEND, SPEND | {"spend": 0.0001, "cache_hit": "true"}]))
    found = against(uses, "gpt-5-nano", "gpt-4.1-nano", local=Local(Decimal("0.5"), Decimal(2), "as given"))
    assert usd(found.total.cost_pico) == Decimal("0.00009")  # the hit is free, as there
    assert usd(found.total.spend_pico) == Decimal("0.00019")
    same, other, here = found.targets
    assert usd(same.cost_pico) == Decimal("0.00018")
    assert usd(other.cost_pico) == 2 * (Decimal("0.0001") + Decimal("0.00004"))
    assert usd(here.cost_pico) == 2 * (Decimal("0.0005") + Decimal("0.0002"))
    document = import_json(told, found)
    assert document["elsewhere"][0]["cost_usd"] == "0.00018"
    assert any("the file says $0.000190" in note for note in document["notes"])


def test_aggregated_rows_take_the_lowest_tier_and_single_requests_their_own() -> None:
    def use(is_aggregated: bool) -> Use:
        return Use(
            "gemini-3.1-pro-preview", "google", "2026-11-20", 200_001, 0, 0, 2_000, 1, is_aggregated=is_aggregated
        )

    assert usd(against([use(False)]).total.cost_pico) == Decimal("0.836004")
    found = against([use(True)], "gemini-3.1-pro-preview")
    assert usd(found.total.cost_pico) == Decimal("0.424002")
    assert usd(found.targets[0].cost_pico) == Decimal("0.424002")
    assert found.is_aggregated


def test_cached_tokens_elsewhere_are_shown_beside_the_full_price() -> None:
    use = Use("gpt-5-nano", None, "", 1_000_000, 800_000, 0, 0, 1, is_aggregated=True)
    [target, here] = against([use], "gpt-5-nano", local=Local(Decimal(1), Decimal(1), "as given")).targets
    assert (usd(target.cost_pico), usd(target.with_cache_pico or 0)) == (Decimal("0.05"), Decimal("0.014"))
    assert (usd(here.cost_pico), usd(here.with_cache_pico or 0)) == (Decimal(1), Decimal("0.2"))


def test_an_unknown_model_in_the_file_is_unpriced_and_one_asked_for_an_error() -> None:
    found = against([Use("my-secret-model", None, "2026-11-20", 10, 0, 0, 10, 1)], "gpt-5-nano")
    assert (found.total.num_unpriced, found.total.cost_pico) == (1, 0)
    with pytest.raises(UnknownModel):
        against([], "gpt-5-nanoo")


def test_this_machines_rates_are_measured_over_local_answers() -> None:
    rates = measured_local([local(1), local(2), hit(3), row(4)])
    assert rates is not None
    assert (rates.usd_per_mtok_in, rates.usd_per_mtok_out) == (Decimal("0.05"), Decimal("0.3"))
    assert rates.source == "measured over 2 local rows of the ledger"
    assert measured_local([row(1)]) is None

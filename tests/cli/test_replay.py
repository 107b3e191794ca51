"""farthing replay: what the issue's call prints, by capacity and by memory, and what it refuses."""

import json

import pytest

from farthing.cli import main
from tests.cli.test_bench import GOLDEN

PACE = ["--prefill-tok-s", "1000", "--decode-tok-s", "100", "--cached-tok-s", "1e6"]
TURNS = [(0, 1025, 10, [0, 1, 2]), (1, 2049, 20, [0, 1, 3, 4, 5]), (2, 700, 5, [0, 9])]


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.jsonl"
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    path.write_text("".join(json.dumps(dict(zip(names, turn, strict=True))) + "\n" for turn in TURNS))
    return str(path)


def played(capsys, *arguments):
    code = main(["replay", *arguments, "--model", GOLDEN, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_one_capacity_is_a_flat_document(trace, capsys):
    document = played(capsys, trace, "--capacity-tokens", "100000", *PACE, "--usd-per-hour", "3.6")
    found = 1024 + 512
    assert document["hit_rate"] == found / 3774
    assert document["tokens"] == 512 * (2 + 3)  # the last one's second page is not complete, and another was given back
    assert document["bytes"] == document["tokens"] * document["bytes_per_token"]
    seconds = (3774 - found) / 1000 + 35 / 100 + found / 1e6
    assert document["seconds"] == pytest.approx(seconds)
    assert document["usd_per_mtok"] == pytest.approx(seconds * 0.001 / (3774 + 35) * 1e6, rel=1e-9)
    assert document["usd_per_mtok_without_cache"] == pytest.approx((3.774 + 0.35) * 0.001 / 3809 * 1e6, rel=1e-9)
    assert (document["eviction"], document["codec"], document["requests"], document["lookups"]) == ("lru", "q8", 3, 3)
    assert document["capacity_tokens"] == 512 * (100000 // 512)
    [other] = document["others"]
    assert other["eviction"] == "odds"
    assert document["rows"] == [{key: document[key] for key in document["rows"][0]}]


def test_the_pace_and_the_finding_are_measured(trace, capsys, monkeypatch):
    monkeypatch.setattr("farthing.report.speed.MIN_S", 0.01)
    document = played(capsys, trace, "--capacity-tokens", "unlimited", "--threads", "1")
    assert document["prefill_tok_s"] > 0
    assert document["decode_tok_s"] > 0
    computed_s = (3774 - 1536) / document["prefill_tok_s"] + 35 / document["decode_tok_s"]
    assert document["seconds"] == pytest.approx(computed_s + document["match_s"] + document["manage_s"])
    assert document["match_s"] > 0
    assert document["capacity_tokens"] is None
    assert "measured" in document["pace_source"]


def test_several_capacities_are_rows(trace, capsys):
    given = ["--capacity-tokens", "1k,2.56M", "--capacity-tokens", "unlimited", "--eviction", "odds"]
    document = played(capsys, trace, *given, *PACE)
    assert "hit_rate" not in document
    assert [row["capacity_tokens"] for row in document["rows"]] == [512, 2_559_488 + 512, None]
    assert [row["requests_refused"] for row in document["rows"]] == [3, 0, 0]
    assert {row["eviction"] for row in document["rows"]} == {"odds"}
    assert [row["others"] for row in document["rows"]] == [[], [], []]


def test_the_same_memory_in_every_codec(trace, capsys):
    rows = played(capsys, trace, "--memory", "10MiB", *PACE)["rows"]
    assert {"f32", "f16", "q8"} <= {row["codec"] for row in rows}
    for row in rows:
        assert row["capacity_tokens"] == 10 * 2**20 // row["bytes_per_token"] // 512 * 512
    one = played(capsys, trace, "--memory", "10MiB", "--kv", "f16", *PACE)
    assert one["codec"] == "f16"
    [same] = [row for row in rows if row["codec"] == "f16"]
    assert {name for name in same if same[name] != one[name]} <= {"match_s", "manage_s", "others"}


def test_pages_of_another_size(trace, capsys):
    document = played(capsys, trace, "--capacity-tokens", "100000", "--page-size", "16", *PACE)
    assert document["hit_rate"] == (1024 + 512) / 3774


def test_the_tables(trace, capsys):
    assert main(["replay", trace, "--model", GOLDEN, *PACE]) == 0
    out = capsys.readouterr().out
    for text in (
        "3 requests",
        "By capacity",
        "unlimited",
        "By codec, in the same memory",
        "lru: hit",
        "odds: hit",
        "40.7%",
    ):
        assert text in out
    assert "…" not in out  # nothing is cut at 80 columns


def test_azure_finds_nothing(tmp_path, capsys):
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n")
    assert played(capsys, str(path), "--capacity-tokens", "10000", *PACE)["hit_rate"] == 0
    assert main(["replay", str(path), "--model", GOLDEN, *PACE]) == 0
    assert "nothing can be found again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--capacity-tokens", "5000", "--memory", "1GiB"], 1, "give one of them"),
        (["--capacity-tokens", "511"], 1, "the capacity is 511 tokens; a page is 512"),
        (["--memory", "1kB"], 1, "tokens; a page is 512"),
        (["--capacity-tokens", "many"], 2, "'many' is no number of tokens"),
        (["--memory", "much"], 2, "'much' is not a number of bytes"),
        (["--prefill-tok-s", "5"], 1, "belong together"),
        (["--prefill-tok-s", "0", "--decode-tok-s", "5"], 1, "prefill_tok_s is 0.0; allowed"),
        (["--eviction", "fifo"], 1, "eviction is 'fifo'; allowed: lru, odds"),
        (["--kv", "q9"], 1, "'q9' is not known; allowed"),
    ],
)
def test_what_is_refused(trace, capsys, arguments, code, expected):
    assert main(["replay", trace, "--model", GOLDEN, *arguments]) == code
    assert expected in capsys.readouterr().err


def test_a_bad_line_is_named(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n{"timestamp": 1}\n')
    assert main(["replay", str(path), "--model", GOLDEN]) == 1
    assert "line 2: no field 'hash_ids'" in capsys.readouterr().err

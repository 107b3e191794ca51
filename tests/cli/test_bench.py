"""farthing bench: the fields and how they hang together, on a checkpoint small enough to be quick."""

import json
from pathlib import Path

import pytest

from farthing.cli import main

GOLDEN = str(Path(__file__).parents[1] / "golden" / "qwen3")
FIELDS = {"work", "batch", "context", "is_prefix_shared", "tok_s", "gb_s", "gop_s"}
FIELDS |= {"limit_tok_s", "percent_of_limit", "bound", "limits"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.report.speed.MIN_S", 0.01)


def test_rows_have_every_field_and_hang_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--threads", "1", "--product", "f32", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["work"] for row in document["rows"]} == {"prefill", "decode"}
    assert {row["batch"] for row in document["rows"] if row["work"] == "decode"} >= {1, 16}
    sampling = document["sampling"]
    extra_s = sampling["sampled_s"] - sampling["greedy_s"]
    assert sampling["percent"] == pytest.approx(100 * extra_s / (sampling["forward_s"] + sampling["greedy_s"]))
    assert document["engine"]["tok_s"] > 0
    assert document["engine"]["batch"] == 16
    for row in document["rows"]:
        assert row.keys() == FIELDS
        assert row["percent_of_limit"] == pytest.approx(100 * row["tok_s"] / row["limit_tok_s"])


def test_the_codec_of_keys_and_values_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    hashes = set()
    for kv in ("f32", "f16", "q8"):
        assert main(["bench", "--model", GOLDEN, "--threads", "1", "--kv", kv, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["kv"] == kv
        assert len(document["logits_hash"]) == 16
        hashes.add(document["logits_hash"])
    assert len(hashes) == 3
    assert main(["bench", "--model", GOLDEN, "--kv", "q9"]) == 1
    assert "'q9' is not known; allowed: f32, f16, q8" in capsys.readouterr().err


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "% of limit" in out
    assert "GB/s" in out
    assert "Logits hash" in out
    assert "The whole engine, 16 greedy sequences" in out
    assert "Sampling at temperature 1, top-p 0.95, 16 sequences" in out
    assert "…" not in out  # nothing is cut at 80 columns


def test_a_bad_format_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--weights", "q9"]) == 1
    assert "q9" in capsys.readouterr().err

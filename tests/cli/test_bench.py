"""farthing bench: the fields and how they hang together, on a checkpoint small enough to be quick."""

import json
from pathlib import Path

import pytest

from farthing.cli import main
from farthing.models import load_model
from farthing.report.speed import Work, measure_speed

GOLDEN = str(Path(__file__).parents[1] / "golden" / "qwen3")
FIELDS = {"work", "batch", "context", "tok_s", "gb_s", "gop_s", "limit_tok_s", "percent_of_limit"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.report.speed.MIN_S", 0.01)


def test_rows_have_every_field_and_hang_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--threads", "1", "--product", "f32", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["work"] for row in document["rows"]} == {"prefill", "decode"}
    assert {row["batch"] for row in document["rows"] if row["work"] == "decode"} >= {1, 16}
    for row in document["rows"]:
        assert row.keys() == FIELDS
        assert row["percent_of_limit"] == pytest.approx(100 * row["tok_s"] / row["limit_tok_s"])


def test_a_longer_context_reads_more_and_a_larger_batch_multiplies_more() -> None:
    works = (Work("decode", 1, 16), Work("decode", 1, 256), Work("decode", 8, 16))
    rows, limits = measure_speed(load_model(GOLDEN), works, "f32", 1, "f16", lambda: None)
    short, long, wide = rows
    assert long.gb_s / long.tok_s > short.gb_s / short.tok_s
    assert wide.gop_s / wide.tok_s == pytest.approx(short.gop_s / short.tok_s)
    assert wide.gb_s / wide.tok_s < short.gb_s / short.tok_s
    assert min(limits.read_gb_s, limits.f32_gflop_s) > 0


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "% of limit" in out
    assert "GB/s" in out


def test_a_bad_format_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", GOLDEN, "--weights", "q9"]) == 1
    assert "q9" in capsys.readouterr().err

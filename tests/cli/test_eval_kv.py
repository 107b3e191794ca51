"""farthing eval kv: its fields and its mistakes, on a small checkpoint."""

import json
from pathlib import Path

import pytest

from farthing.cli import main

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
COMMAND = ["eval", "kv", "--model", GOLDEN, "--threads", "1"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{i} quick brown foxes jump over {i * i % 97} lazy dogs. " for i in range(150)))
    return path


def test_fields(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--text", str(text), "--window", "128", "--edge-layers", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["codec"]: row for row in found["codecs"]}
    assert list(rows) == ["f16", "q8", "q8/tq4", "tq4", "tq3", "tq2"]
    for row in rows.values():
        assert row["window"] == 128
        assert row["perplexity"] > 1
        assert 0 <= row["retrieve_accuracy"] <= 1
        assert 0 <= row["top1_agreement"] <= 1
    kl = [row["kl_divergence"] for row in rows.values()]
    assert kl == sorted(kl)
    assert kl[0] == 0 < kl[1]
    bits = [row["bits_per_value"] for row in rows.values()]
    assert bits == sorted(bits, reverse=True)
    assert found["cheapest_that_passes"] in rows
    assert found["product"] == "f32"


def test_table_and_chosen_codecs(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--text", str(text), "--window", "128", "--window", "160", "--codecs", "q8, f16/q8", "--tokens", "300"]
    assert main([*COMMAND, *asked]) == 0
    out = capsys.readouterr().out
    assert out.count("f16/q8") >= 2
    assert "TurboQuant" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codecs", "q9"], "'q9' is not known; allowed: f32, f16, q8, tq4"),
        (["--codecs", ","], "names no codec"),
        (["--window", "100000"], "--window 100000 is longer than"),
        (["--window", "16"], "window is 16; allowed: 64 or more"),
    ],
)
def test_mistakes(text: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--text", str(text), *arguments]) != 0
    assert message in capsys.readouterr().err


def test_a_text_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--text", str(tmp_path / "none.txt")]) != 0
    assert "cannot be read" in capsys.readouterr().err

"""farthing eval perplexity: fields, agreement with itself, mistakes; and the reference figures where data is there."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.cli._output import DEFAULT_MODEL
from farthing.errors import ModelNotFound
from farthing.models.hub import find_model

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
MODEL = ["--model", GOLDEN, "--threads", "1"]
COMMAND = ["eval", "perplexity"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 20, encoding="utf-8")
    return path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*COMMAND, *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_fields(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--text", str(text), "--window", "32", *MODEL)
    assert found["perplexity"] > 1
    assert found["perplexity_all_targets"] > 1
    assert found["tokens"] == 32 * found["windows"]
    assert "kl_divergence" not in found


def test_a_model_agrees_with_itself_and_less_so_with_coarser_weights(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--text", str(text), "--window", "32", *MODEL, "--against", "f32", "--product", "f32", "--kv", "f32"]
    same = document(capsys, *asked, "--weights", "f32")
    eight = document(capsys, *asked, "--weights", "q8_0")
    four = document(capsys, *asked, "--weights", "q4_1")
    assert same["kl_divergence"] == 0
    assert same["top1_agreement"] == 1
    assert 0 < eight["kl_divergence"] < four["kl_divergence"]


def test_coarser_keys_and_values_are_farther_from_full_precision(
    text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--text", str(text), "--window", "32", *MODEL, "--weights", "f32", "--against", "f32", "--product", "f32"]
    found = {kv: document(capsys, *asked, "--kv", kv) for kv in ("f32", "f16", "q8")}
    assert found["f32"]["kl_divergence"] == 0 < found["f16"]["kl_divergence"] < found["q8"]["kl_divergence"]
    assert [found[kv]["kv"] for kv in found] == list(found)
    assert document(capsys, *asked)["kl_divergence"] == found["q8"]["kl_divergence"]  # the engine's own


def test_tokens_cut_the_text_and_stdin_is_read(
    text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = document(capsys, "--text", str(text), "--window", "32", "--tokens", "70", *MODEL)
    assert cut["tokens"] == 64
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.read_bytes())))
    again = document(capsys, "--text", "-", "--window", "32", "--tokens", "70", *MODEL)
    assert again["perplexity"] == cut["perplexity"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--text", "absent.txt"], "absent.txt: cannot be read"),
        (["--window", "3"], "window is 3"),
        (["--window", "513"], "context is 512"),
        (["--window", "64", "--tokens", "10"], "has 10 tokens, a window 64"),
        (["--against", "f99"], "f99"),
        (["--kv", "q9"], "'q9' is not known; allowed: f32, f16, q8"),
    ],
)
def test_mistakes_are_told_in_one_line(
    text: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    given = arguments if "--text" in arguments else ["--text", str(text), *arguments]
    assert main([*COMMAND, *given, *MODEL]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert captured.err.count("\n") == 1


def test_an_empty_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    assert main([*COMMAND, "--text", str(tmp_path / "empty.txt"), *MODEL]) == 1
    assert "empty" in capsys.readouterr().err


def test_reference_perplexity(capsys: pytest.CaptureFixture[str]) -> None:
    """Two windows of WikiText's test text: llama-perplexity (f32 weights, -c 512 --chunks 2) says 21.3732."""
    data = os.environ.get("FARTHING_DATA")
    if data is None:
        pytest.skip("FARTHING_DATA is not set")
    text = Path(data) / "text" / "wiki.test.raw"
    if not text.exists():
        pytest.skip("no wiki.test.raw in FARTHING_DATA")
    try:
        model = find_model(DEFAULT_MODEL)
    except ModelNotFound:
        pytest.skip(f"{DEFAULT_MODEL} has not been pulled")
    exact = ["--product", "f32", "--kv", "f32"]
    found = document(
        capsys, "--text", str(text), "--window", "512", "--tokens", "1024", "--model", str(model), *exact
    )
    assert found["windows"] == 2
    assert found["perplexity"] == pytest.approx(21.3732, rel=3e-4)

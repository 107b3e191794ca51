"""farthing price: the issue's example to the letter, options, errors, and the machine beside a hosted model."""

import json
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main

GEMINI = ["price", "--model", "gemini-3.1-pro-preview"]


@pytest.fixture(autouse=True)
def no_prices_of_the_person_testing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GEMINI, "--input-tokens", "50000", "--output-tokens", "2000"]) == 0
    captured = capsys.readouterr()
    assert "0.100 + 0.024 = $0.124" in captured.out
    assert "price: genai-prices 0.2" in captured.out


def test_the_example_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *GEMINI, "--input-tokens", "50000", "--output-tokens", "2000")
    assert found["total_usd"] == "0.124"
    assert found["items"] == [
        {"name": "input", "tokens": 50000, "usd_per_mtok": "2", "usd": "0.10"},
        {"name": "output", "tokens": 2000, "usd_per_mtok": "12", "usd": "0.024"},
    ]
    assert found["source"]["name"].startswith("genai-prices")


@pytest.mark.parametrize(
    ("options", "total"),
    [
        (["--input-tokens", "200000"], "0.40"),
        (["--input-tokens", "200001"], "0.800004"),
        (["--input-tokens", "250000", "--output-tokens", "2000", "--cache-read-tokens", "100000"], "0.676"),
        (["--input-tokens", "50000", "--output-tokens", "2000", "--batch"], "0.062"),
    ],
)
def test_totals(options: list[str], total: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, *GEMINI, *options)["total_usd"] == total


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "gemini-3.1-pro-previeww", "--input-tokens", "1"], "nearest: gemini-3.1-pro-preview"),
        ([*GEMINI[1:], "--input-tokens", "-1"], "input_tokens is -1"),
        ([*GEMINI[1:], "--input-tokens", "1", "--cache-read-tokens", "2"], "cannot exceed it (1)"),
        ([*GEMINI[1:], "--input-tokens", "1" + "0" * 20], "allowed: 0 to"),
        ([*GEMINI[1:]], "nothing to price"),
        (["--input-tokens", "1"], "--model"),
        (["--usd-per-hour", "1"], "--usd-per-hour prices this machine and needs --seconds"),
        (["--seconds", "-1"], "seconds is -1"),
        (["--seconds", "1", "--utilisation", "30"], "utilisation is 30"),
        (["--seconds", "1", "--watts", "30"], "both watts and usd_per_kwh"),
        ([*GEMINI[1:], "--input-tokens", "1", "--at", "soon"], "--at is 'soon'"),
        ([*GEMINI[1:], "--input-tokens", "1", "--provider", "gogle"], "nearest: google"),
        ([*GEMINI[1:], "--input-tokens", "1", "--prices", "none.toml"], "none.toml cannot be read"),
    ],
)
def test_errors(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["price", *options]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("count", ["nan", "1.5", "inf"])
def test_counts_are_whole_numbers(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GEMINI, "--input-tokens", count]) == 2
    assert "integer" in capsys.readouterr().err


def test_own_prices_and_a_warning_when_they_are_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[[price]]\nmodel = "mine"\nfrom = 2025-01-01\ninput = 0.25\noutput = 1\n')
    arguments = ["price", "--model", "mine", "--input-tokens", "1000000"]
    assert main([*arguments, "--prices", str(own), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["total_usd"] == "0.25"
    assert captured.err.startswith("farthing: warning: this price is ")
    (tmp_path / "config" / "farthing").mkdir(parents=True)
    own.rename(tmp_path / "config" / "farthing" / "prices.toml")
    assert document(capsys, *arguments)["total_usd"] == "0.25"
    assert main([*arguments, "--at", "2024-12-31"]) == 1


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    machine = ["--usd-per-hour", "0.05", "--seconds", "3600", "--utilisation", "0.5"]
    energy = ["--watts", "65", "--usd-per-kwh", "0.15"]
    found = document(capsys, "price", *machine, *energy, "--output-tokens", "36000")
    assert (found["total_usd"], found["usd_per_mtok"], found["energy_usd"]) == ("0.10", "2.777777777778", "0.00975")
    assert main(["price", "--seconds", "3600"]) == 0
    assert "$0.0765/h: AWS c6a.large" in capsys.readouterr().out


def test_this_machine_beside_a_hosted_model(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = ["--input-tokens", "50000", "--output-tokens", "2000"]
    found = document(capsys, *GEMINI, *tokens, "--seconds", "600")
    assert (found["total_usd"], found["self_hosted"]["usd"]) == ("0.124", "0.01275")
    assert found["self_hosted"]["break_even_utilisation"] == pytest.approx(0.01275 / 0.124)
    assert main([*GEMINI, *tokens, "--seconds", "60000"]) == 0
    assert "never: fully used, it is still 10.28 times as dear" in capsys.readouterr().out

"""The door: it opens fast, errors are one line with the nearest names, and the exit code tells the truth."""

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import typer

from farthing import __version__
from farthing.cli import COMMANDS, _output, app, main
from farthing.errors import InvalidRequest

FARTHING = [sys.executable, "-c", "import sys; from farthing.cli import main; sys.exit(main())"]


def test_help_answers_within_half_a_second() -> None:
    """Processor time, of the best of three: the clock on the wall would measure what else the machine does."""
    times = []
    for _ in range(3):
        before = os.times()
        assert subprocess.run([*FARTHING, "--help"], capture_output=True).returncode == 0
        after = os.times()
        times.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(times) < 0.5


def test_opening_the_door_imports_nothing_heavy() -> None:
    code = (
        "import sys, farthing.cli\n"
        "heavy = {'numpy', 'tokenizers', 'tiktoken', 'genai_prices', 'jinja2', 'gguf', 'rich', 'farthing._native'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_command_has_help_an_example_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in overview
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert "Example:\n  " in text, name
        assert f"farthing {name}" in text.partition("Example:")[2], name
        if name != "eval":
            assert "--json" in text, name


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"farthing {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["prize"], ["No such command 'prize'", "'price'"]),
        (["price", "--modle", "x"], ["--modle", "--model", "farthing price --help"]),
        (["price", "--input-tokens", "many"], ["--input-tokens", "integer"]),
        (["--vesion"], ["--vesion", "--version"]),
    ],
)
def test_wrong_usage_is_one_line_with_the_nearest_name(
    arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("farthing: error: ")
    assert captured.err.count("\n") == 1
    for part in expected:
        assert part in captured.err


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidRequest("x is 3;\n allowed: 4"), 1, "farthing: error: x is 3; allowed: 4\n"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 1, "a.txt: No such file or directory\n"),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("division by zero"), 70, "FARTHING_DEBUG=1"),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = next(info for info in app.registered_commands if info.name == "price")

    def fail() -> None:
        raise error

    monkeypatch.setattr(command, "callback", fail)
    monkeypatch.delenv("FARTHING_DEBUG", raising=False)
    assert main(["price"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert line in captured.err
    assert captured.err.count("\n") == (1 if line else 0)
    assert "Traceback" not in captured.err
    if code == 70:
        monkeypatch.setenv("FARTHING_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            main(["price"])


PRICE = ("price", "--model", "gpt-5-nano", "--input-tokens", "1")


def test_a_closed_pipe_is_quiet_and_not_a_success() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*FARTHING, *PRICE], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode != 0
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*FARTHING, *PRICE], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("farthing: error: ")
    assert result.stderr.count("\n") == 1


def test_emit_writes_one_document_of_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    document = {
        "usd": Decimal("1E-7"), "path": Path("a/b"), "speed": float("nan"),
        "text": "a\ud800", "rows": ({"n": 1},),
    }
    _output.emit(True, document, lambda: pytest.fail("rendered in JSON mode"))
    assert json.loads(capsys.readouterr().out) == {
        "usd": "0.0000001",
        "path": "a/b",
        "speed": None,
        "text": "a?",
        "rows": [{"n": 1}],
    }


@pytest.mark.parametrize("text", ["x", "nan", "inf", ""])
def test_decimals_of_options_are_finite_numbers(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        _output.parse_decimal(text)

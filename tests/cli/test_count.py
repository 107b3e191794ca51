"""farthing count: a text, a file or stdin; exact, estimated or refused."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.cli._output import DEFAULT_MODEL
from farthing.models.hub import pulled_models

needs_model = pytest.mark.skipif(DEFAULT_MODEL not in pulled_models(), reason=f"needs `farthing pull {DEFAULT_MODEL}`")


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["count", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_exact(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "unbelievable", "--model", "gpt-4o")
    assert (found["tokens"], found["characters"], found["method"]) == (3, 12, "exact")
    assert found["characters_per_token"] == 4.0
    assert main(["count", "unbelievable", "--model", "gpt-4o"]) == 0
    assert "3 tokens, 12 characters, 4.00 characters per token" in capsys.readouterr().out


def test_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "unbelievable " * 100, "--model", "claude-opus-5-5")
    assert found["method"] == "estimate"
    assert found["low"] < found["tokens"] < found["high"]
    assert main(["count", "unbelievable", "--model", "claude-opus-5-5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("about ")
    assert "estimate: 1.53 x o200k_base, +-20%" in out


def test_file_and_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"unbelievable\r\n")
    assert document(capsys, "--file", str(path), "--model", "gpt-4o")["characters"] == 14
    for arguments in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"unbelievable"), encoding="utf-8"))
        assert document(capsys, *arguments, "--model", "gpt-4o")["tokens"] == 3


def test_bytes_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"caf\xe9")
    assert main(["count", "--file", str(path), "--model", "gpt-4o", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["characters"] == 4
    assert "not UTF-8 at byte 3" in captured.err


def test_show_separates_tokens_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", "unbelievable\x1b[31m\n🧿", "--model", "gpt-4o", "--show"]) == 0
    shown = capsys.readouterr().out.splitlines()[0]
    assert shown.startswith("un|bel|ievable|")
    assert "\x1b" not in shown
    assert "\\x1b" in shown
    assert "<f0 9f" in shown  # a token that holds a part of a character


def test_show_in_colour(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["count", "unbelievable", "--model", "gpt-4o", "--show"]) == 0
    assert capsys.readouterr().out.count("\x1b[48;5;") + capsys.readouterr().out.count("\x1b[4") >= 1
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["count", "unbelievable", "--model", "gpt-4o", "--show"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "un|bel|ievable"


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "unbelievable", "--model", "gpt-4o", "--show")
    assert found["pieces"][0] == {"id": 373, "text": "un"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--model", "gpt-4o-mnii"], "nearest: gpt-4o-mini"),
        (["x", "--model", "smollm2-135m-instrukt"], "nearest: smollm2-135m-instruct"),
        (["x", "--model", "/nowhere/model.gguf"], "/nowhere/model.gguf"),
        (["x", "--file", "y"], "not both"),
        (["--file", "no-such-file.txt", "--model", "gpt-4o"], "no-such-file.txt: No such file"),
        (["x", "--model", "claude-opus-5-5", "--show"], "leave out --show"),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_model_that_is_not_pulled_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FARTHING_CACHE", str(tmp_path))
    assert main(["count", "x"]) == 1
    assert f"farthing pull {DEFAULT_MODEL}" in capsys.readouterr().err


@needs_model
def test_the_embedded_model_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "Hello <|im_end|> world", "--show")
    assert (found["method"], found["model"]) == ("exact", DEFAULT_MODEL)
    assert "".join(piece["text"] for piece in found["pieces"]) == "Hello <|im_end|> world"
    assert found["tokens"] == len(found["pieces"]) > 4  # <|im_end|> is text here, several tokens

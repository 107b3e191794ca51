"""farthing explain-cache: files in, for each request what was found and what broke the rest."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.cli._output import DEFAULT_MODEL
from farthing.models.hub import pulled_models

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
SYSTEM = "You are a helpful assistant. It is {} now. Answer in one short sentence, and always be kind."


def request(clock: str, *texts: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM.format(clock)}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"model": "any", "messages": messages}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two turns of a conversation, then the same with another time."""
    turns = [request("18:59", "Hi."), request("18:59", "Hi.", "Hello!", "How are you?"), request("19:00", "Hi.")]
    paths = [tmp_path / f"{number}.json" for number in (1, 2, 3)]
    for path, turn in zip(paths, turns, strict=True):
        path.write_text(json.dumps(turn))
    return [str(path) for path in paths]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["explain-cache", *arguments, "--json", "--model", GOLDEN]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_json_has_every_field(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *files)
    assert found["page_size"] == 16
    first, second, third = found["requests"]
    assert [row["culprit"]["kind"] for row in (first, second, third)] == ["first", "appended", "timestamp"]
    assert [row["name"] for row in found["requests"]] == files
    assert first["num_found"] == 0
    assert second["num_found"] == first["num_tokens"] // 16 * 16
    assert third["num_found"] == third["num_common"] // 16 * 16
    assert third["compared_with"] in (1, 2)
    assert (third["earlier"]["token"], third["now"]["token"]) == ("8", "9")
    assert "newest message" in third["culprit"]["hint"]
    assert found["num_found"] == sum(row["num_found"] for row in found["requests"])


def test_people_see_the_place_and_the_hint(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-cache", *files, "--model", GOLDEN]) == 0
    out = capsys.readouterr().out
    assert "a timestamp in message 1 (system): 18:59 became 19:00; the rest is the same" in out
    assert "[8]" in out
    assert "[9]" in out
    assert "-> put it behind what stays the same" in out
    assert "in pages of 16" in out
    assert out.count("earlier") == 1  # nothing to explain in the others


def test_lines_stdin_and_page_size(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "\n".join(Path(file).read_text() for file in files).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    found = document(capsys, "-", "--page-size", "4")
    assert found["page_size"] == 4
    assert [row["name"] for row in found["requests"]] == [f"stdin, line {number}" for number in (1, 2, 3)]
    assert found["num_found"] > document(capsys, *files)["num_found"]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    bodies = [request(clock, "Hi.\x1b[31m") for clock in ("18:59 \x1b[31m", "19:00 \x1b[31m\u202e")]
    path.write_text("\n".join(map(json.dumps, bodies)))
    assert main(["explain-cache", str(path), "--model", GOLDEN]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_tools_that_the_template_does_not_know_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    tools = [{"type": "function", "function": {"name": name}} for name in ("add", "buy")]
    bodies = [request("18:59", "Hi.") | {"tools": order} for order in (tools, tools[::-1])]
    path.write_text("\n".join(map(json.dumps, bodies)))
    assert main(["explain-cache", str(path), "--model", GOLDEN]) == 0
    captured = capsys.readouterr()
    assert "knows no tools" in captured.err
    assert "the same 2 tools in another order" in captured.out


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no request in it"), ("not json", "not JSON"), ('{"model": "m"}', "'messages' is missing")],
)
def test_bad_files_are_one_line(content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert main(["explain-cache", str(path), "--model", GOLDEN]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"farthing: error: {path}")
    assert said in captured.err
    assert captured.err.count("\n") == 1


def test_directories_missing_files_and_stdin_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([str(tmp_path)], "a directory"),
        ([str(tmp_path / "no.json")], "No such file"),
        (["-", "-"], "more than once"),
    ):
        assert main(["explain-cache", *arguments, "--model", GOLDEN]) == 1
        assert said in capsys.readouterr().err
    assert main(["explain-cache"]) == 2
    assert main(["explain-cache", "x.json", "--page-size", "0"]) == 2


@pytest.mark.skipif(DEFAULT_MODEL not in pulled_models(), reason=f"needs `farthing pull {DEFAULT_MODEL}`")
def test_the_embedded_model_explains(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-cache", *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["culprit"]["kind"] for row in found["requests"]] == ["first", "appended", "timestamp"]

"""farthing waterfall end to end on a checkpoint of random weights: files, streams, mistakes, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farthing.cli import main

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
MODEL = ["--model", GOLDEN, "--threads", "1"]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": f"{word} " * 6}], "max_tokens": 4, "temperature": 0}
        for word in ("one", "two", "three")
    ]
    path = tmp_path / "work.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_one_run_gives_the_table_the_page_and_the_json(
    tmp_path: Path, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, out = tmp_path / "out.html", tmp_path / "out.json"
    assert main(["waterfall", str(workload), *MODEL, "--html", str(page), "--json", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("speculation") >= 3  # both tables and the sentence
    assert "measuring: KV cache" in captured.err  # no bar where stderr is no terminal, but a line
    assert "<svg" in page.read_text(encoding="utf-8")
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["partial"] is False
    assert len(document["rows"]) == 9
    assert document["workload"] == {"name": str(workload), "requests": 3}
    assert [hosted["role"] for hosted in document["hosted"]] == ["small", "middle", "frontier"]
    for hosted in document["hosted"]:
        assert hosted["break_even_utilisation"] > 0
        assert hosted["price_source"].startswith("genai-prices")
    for row in document["rows"]:
        assert row["usd_per_mtok"]["blended"] > 0
        assert row["quality"]["kind"] in ("reference", "identical", "measured")


def test_bare_json_is_one_document_on_stdout(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["waterfall", str(workload), "--json", *MODEL, "--hosted", "gpt-5-nano", "--usd-per-hour", "0.5"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["usd_per_hour"] == 0.5
    assert [(hosted["model"], hosted["role"]) for hosted in document["hosted"]] == [("gpt-5-nano", "chosen")]
    energy = [row["energy_usd_per_mtok"] for row in document["rows"]]
    assert energy == [None] * 9


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["absent.jsonl"], "absent.jsonl: cannot be read"),
        (["a.jsonl", "b.jsonl"], "too many files"),
        (["--json", "a.json", "b.json"], "too many files"),
        (["--hosted", "gpt-5-nanoo"], "nearest: gpt-5-nano"),
        (["--usd-per-hour", "0"], "--usd-per-hour is 0"),
        (["--watts", "65"], "needs both watts and usd_per_kwh"),
        (["--html", "no/such/folder/x.html"], "cannot be written"),
        (["--jsonn"], "No such option"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["waterfall", *MODEL, *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert "measuring" not in captured.err


def test_a_bad_line_of_the_workload_is_named(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with workload.open("a", encoding="utf-8") as file:
        file.write('{"messages": [{"role": "user", "content": "x"}], "tools": []}\n')
    assert main(["waterfall", str(workload), *MODEL]) == 1
    assert "line 4: field 'tools' is not supported" in capsys.readouterr().err


def test_ctrl_c_leaves_a_valid_partial_report(tmp_path: Path, workload: Path) -> None:
    workload.write_text(workload.read_text(encoding="utf-8") * 400, encoding="utf-8")  # long enough to be cut short
    page, out = tmp_path / "out.html", tmp_path / "out.json"
    run = "import sys; from farthing.cli import main; sys.exit(main())"
    arguments = ["waterfall", str(workload), *MODEL, "--html", str(page), "--json-out", str(out)]
    child = subprocess.Popen([sys.executable, "-c", run, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert child.stderr is not None
        while (line := child.stderr.readline()) and b"measuring: KV cache" not in line:
            pass
        time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        stdout, _ = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["partial"] is True
    assert document["missing"]
    assert len(document["rows"]) + len(document["missing"]) == 9
    assert "Partial report" in page.read_text(encoding="utf-8")
    assert b"PARTIAL" in stdout

"""farthing generate and farthing chat, on a checkpoint of random weights: what is printed, and what is refused."""

import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from farthing.cli import main
from farthing.cli._output import parse_bytes

GOLDEN = str(Path(__file__).parents[1] / "golden" / "llama")
MODEL = ["--model", GOLDEN, "--threads", "1"]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("farthing: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_json_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "generate", "abc", *MODEL, "--temperature", "0", "--max-tokens", "5", "--ignore-eos")
    assert {"text", "token_ids", "finish_reason", "usage", "cost_usd", "tokens_per_s"} <= found.keys()
    assert len(found["token_ids"]) == 5
    assert found["finish_reason"] == "length"
    usage = found["usage"]
    assert {"input_tokens", "cache_read_tokens", "output_tokens", "compute_s"} <= usage.keys()
    assert usage["output_tokens"] == 5
    assert found["cost_usd"] == pytest.approx(0.0765 / 3600 * usage["compute_s"], abs=1e-12)


def test_what_of_the_weights_a_token_costs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    olmoe = ["--model", str(Path(GOLDEN).parent / "olmoe"), "--threads", "1"]
    options = ["--temperature", "0", "--max-tokens", "5", "--ignore-eos"]
    in_memory = document(capsys, "generate", "abc", *olmoe, *options)
    in_file = document(capsys, "generate", "abc", *olmoe, *options, "--experts-folder", str(tmp_path))
    assert in_file["token_ids"] == in_memory["token_ids"]
    assert (in_file["weights"]["num_experts"], in_file["weights"]["num_experts_per_token"]) == (7, 3)
    assert 3 <= in_file["experts"]["per_layer_and_step"] <= 7
    dense = document(capsys, "generate", "abc", *MODEL, *options)
    assert dense["experts"] is None
    assert dense["weights"]["num_active_parameters"] == dense["weights"]["num_parameters"]
    told = error(capsys, "generate", "abc", *MODEL, "--experts-folder", str(tmp_path))
    assert "llama has no experts; leave it out" in told


def test_streamed_text_equals_the_json_text(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["generate", "abc", *MODEL, "--seed", "3", "--max-tokens", "20"]
    found = document(capsys, *asked)
    assert main(asked) == 0
    captured = capsys.readouterr()
    assert captured.out == found["text"] + "\n"
    assert "$0.0765/h" in captured.err


def test_speculation_changes_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["generate", "abc abc abc", *MODEL, "--seed", "3", "--temperature", "0.5", "--max-tokens", "40"]
    texts = [document(capsys, *asked, "--speculation", name)["token_ids"] for name in ("prompt-lookup", "off")]
    assert texts[0] == texts[1] == document(capsys, *asked)["token_ids"]
    assert "allowed: off, prompt-lookup, or draft:MODEL" in error(capsys, *asked, "--speculation", "on")


def test_raw_leaves_out_the_template_and_stdin_is_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_template = document(capsys, "generate", "abc", *MODEL, "--max-tokens", "1")["usage"]["input_tokens"]
    raw = document(capsys, "generate", "abc", "--raw", *MODEL, "--max-tokens", "1")["usage"]["input_tokens"]
    assert raw < with_template
    stdin(monkeypatch, b"abc\xff")
    assert document(capsys, "generate", "-", "--raw", *MODEL, "--max-tokens", "1")["usage"]["input_tokens"] > raw


def test_logprobs(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(
        capsys, "generate", "abc", *MODEL, "--temperature", "0", "--max-tokens", "4", "--logprobs", "2", "--ignore-eos"
    )
    assert [item["token_id"] for item in found["logprobs"]] == found["token_ids"]
    for item in found["logprobs"]:
        assert item["logprob"] == item["top"][0]["logprob"]  # greedy: the likeliest
        assert item["top"][0]["logprob"] >= item["top"][1]["logprob"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["abc", "--temperature", "-1"], "temperature is -1.0; allowed: 0"),
        (["abc", "--top-p", "2"], "top_p is 2.0"),
        (["abc", "--max-tokens", "0"], "max_tokens is 0"),
        ([""], "the prompt is empty"),
        (["abc", "--logprobs", "2"], "--logprobs needs --json"),
        (["abc", "--raw", "--system", "x"], "--system needs the chat template"),
        (["abc", "--weights", "q9"], "q9"),
        (["abc", "--usd-per-hour", "free"], "'free' is not a number"),
        (["abc " * 500], "tokens; at most"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert expected in error(capsys, "generate", *arguments, *MODEL)


def test_a_model_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no-such-model" in error(capsys, "generate", "abc", "--model", "no-such-model")


def test_chat_answers_each_line_and_reads_what_it_has_seen_from_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"first words\n\nsecond words\n")
    found = document(capsys, "chat", *MODEL, "--seed", "1", "--max-tokens", "8", "--system", "be brief " * 4)
    assert [turn["prompt"] for turn in found["turns"]] == ["first words", "second words"]
    first, second = (turn["usage"] for turn in found["turns"])
    assert first["cache_read_tokens"] == 0
    assert second["cache_read_tokens"] >= 16
    assert found["total_cost_usd"] == pytest.approx(sum(turn["cost_usd"] for turn in found["turns"]))


def test_chat_streams_to_stdout_and_tells_the_cost_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"hello")
    assert main(["chat", *MODEL, "--seed", "1", "--max-tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.out
    assert re.search(r"tokens in.*out.*\$0\.0", captured.err)
    assert "1 turns, $0.0" in captured.err


def test_chat_says_when_the_conversation_no_longer_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"fine\n" + b"too long " * 300)
    assert main(["chat", *MODEL, "--max-tokens", "4", "--json"]) == 1
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)["turns"]) == 1
    assert "farthing: error: the prompt has" in captured.err


def test_ctrl_c_stops_the_answer_but_not_the_chat(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    num_shown = 0

    def interrupt(_conversation: object, _token: object) -> None:
        nonlocal num_shown
        num_shown += 1
        if num_shown == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("farthing.cli.chat._Conversation._show", interrupt)
    stdin(monkeypatch, b"go on\nand again\n")
    found = document(capsys, "chat", *MODEL, "--max-tokens", "12", "--seed", "2")
    first, second = found["turns"]
    assert first["finish_reason"] == "abort"
    assert first["usage"]["output_tokens"] == 3
    assert second["finish_reason"] != "abort"


def test_ctrl_c_leaves_the_answer_so_far(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from farthing.engine import Engine

    step, num_steps = Engine.step, 0

    def interrupted_step(engine: Engine) -> object:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 3:
            signal.raise_signal(signal.SIGINT)
        return step(engine)

    monkeypatch.setattr(Engine, "step", interrupted_step)
    assert main(["generate", "abc", *MODEL, "--max-tokens", "50", "--ignore-eos", "--json"]) == 130
    found = json.loads(capsys.readouterr().out)
    assert found["finish_reason"] == "abort"
    assert len(found["token_ids"]) == 3


def test_a_cold_folder_is_found_again_by_the_next_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ["generate", "abc " * 30, *MODEL, "--temperature", "0", "--max-tokens", "5", "--ignore-eos"]
    cold = ["--cold-folder", str(tmp_path / "cold"), "--cold-bytes", "4MiB"]
    first, second, without = document(capsys, *asked, *cold), document(capsys, *asked, *cold), document(capsys, *asked)
    assert first["token_ids"] == second["token_ids"] == without["token_ids"]
    assert first["usage"]["cache_read_tokens"] == without["usage"]["cache_read_tokens"] == 0
    assert second["usage"]["cache_read_tokens"] > 64
    assert sum(path.stat().st_size for path in (tmp_path / "cold").iterdir()) <= 4 << 20


def test_a_conversation_goes_on_in_the_next_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ["chat", *MODEL, "--temperature", "0", "--max-tokens", "4", "--cold-folder", str(tmp_path)]
    read = []
    for _ in range(2):
        stdin(monkeypatch, b"abc abc abc abc abc abc abc abc\n")
        read.append(document(capsys, *asked)["turns"][0]["usage"]["cache_read_tokens"])
    assert read[0] == 0 < read[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cold-bytes", "many"], "write it like 4GiB"),
        (["--cold-bytes", "-1"], "write it like 4GiB"),
        (["--cold-bytes", "10"], "raise it"),
        (["--cold-folder", "x", "--cold-bytes", "0"], "cold_bytes"),
        (["--cold-folder", "/dev/null"], "cannot be used"),
    ],
)
def test_a_cold_tier_that_cannot_be(capsys: pytest.CaptureFixture[str], options: list[str], told: str) -> None:
    assert told in error(capsys, "generate", "abc", *MODEL, *options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("65536", 65536), ("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("1.5kb", 1500), ("2G", 2_000_000_000), ("7B", 7)],
)
def test_bytes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected

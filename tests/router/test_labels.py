"""Labelled data: three forms of a line, one row per prompt, and errors that name the line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.label import call_text, read_line
from farthing.router.labels_file import Costs, gather, read_lines, read_prompts, to_rows


def lines_of(*rows: Any) -> Any:
    return gather(read_line(json.dumps(row)) for row in rows)


def test_a_line_may_hold_several_models() -> None:
    models = {
        "small": {"is_right": False, "answer": "no", "cost_usd": 0.0001},
        "large": {"score": 0.9, "cost_usd": 0.01},
    }
    line = read_line(json.dumps({"prompt": "why?", "models": models}))
    assert (line.prompt, line.labels["small"].score, line.labels["large"].score) == ("why?", 0.0, 0.9)
    assert (line.labels["small"].answer, line.labels["small"].cost_pico) == ("no", 100_000_000)


def test_what_farthing_compare_writes_is_read() -> None:
    """The fields of its --out rows, one model a line."""
    row = {
        "key": "0123", "id": "q7", "prompt": "Capital of Peru?", "answer": "Lima", "error": None, "latency_us": 31,
        "input_tokens": 9, "cache_read_tokens": 0, "output_tokens": 2, "logprob_mean": -0.1, "logprob_least": -0.2,
    }  # fmt: skip
    small = {**row, "model": "small", "is_right": True, "cost_pico": 12}
    large = {**row, "model": "large", "is_right": None, "cost_pico": None, "error": "timeout"}
    labels = lines_of(small, large)
    assert labels["Capital of Peru?"]["small"].cost_pico == 12
    assert labels["Capital of Peru?"]["large"].score is None
    again = lines_of(small, {**large, "is_right": False, "cost_pico": 90})
    rows, _ = to_rows(again)
    assert (rows.models, rows.quality.tolist(), rows.answers) == (("small", "large"), [[1.0, 0.0]], ("Lima",))
    assert rows.costs == (12e-12, 90e-12)
    assert rows.signals is not None
    assert rows.signals[0, :2].tolist() == [-0.1, -0.2]
    assert np.isnan(rows.signals[0, 2:]).all()


def test_an_error_does_not_undo_a_label() -> None:
    labels = lines_of({"prompt": "p", "model": "a", "is_right": True}, {"prompt": "p", "model": "a", "is_right": None})
    assert labels["p"]["a"].score == 1.0


@pytest.mark.parametrize(("winner", "scores"), [("a", (1.0, 0.0)), ("b", (0.0, 1.0)), ("tie", (0.5, 0.5))])
def test_a_preference_is_a_contest(winner: str, scores: tuple[float, float]) -> None:
    line = read_line(json.dumps({"prompt": "p", "winner": winner, "models": ["a", "b"]}))
    assert (line.labels["a"].score, line.labels["b"].score) == scores


def test_of_messages_the_last_thing_the_user_said_is_read() -> None:
    parts = [{"type": "text", "text": "second"}, {"type": "image_url"}, {"type": "text", "text": "part"}]
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": parts},
    ]
    tool = {"role": "user", "content": [{"type": "tool_result"}]}
    assert call_text({"messages": [*turns, tool]}) == "second\npart"
    assert call_text({"prompt": "p"}) == "p"
    assert call_text({"messages": [{"role": "system", "content": "x"}]}) == ""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[]", "list instead of an object"),
        ('{"models": {"a": {"score": 1}}}', "give either prompt or messages"),
        ('{"prompt": " ", "models": {"a": {"score": 1}}}', "no text"),
        ('{"prompt": 3, "models": {"a": {"score": 1}}}', "no text"),
        ('{"prompt": "p"}', "no label"),
        ('{"prompt": "p", "models": {"a": 1}}', "no label"),
        ('{"prompt": "p", "models": {"a": {"score": 2}}}', "score is '2'"),
        ('{"prompt": "p", "models": {"a": {"score": NaN}}}', "score is"),
        ('{"prompt": "p", "models": {"a": {"score": true}}}', "score is"),
        ('{"prompt": "p", "models": {"a": {"is_right": 1}}}', "is_right is"),
        ('{"prompt": "p", "models": {"a": {"answer": 1}}}', "answer is int"),
        ('{"prompt": "p", "models": {"a": {"logprob_mean": 0.1}}}', "logprob_mean is"),
        ('{"prompt": "p", "models": {"a": {"cost_usd": -1}}}', "cost_usd is"),
        ('{"prompt": "p", "models": {"a": {"cost_pico": 1.5}}}', "cost_pico is"),
        ('{"prompt": "p", "model": "", "score": 1}', "a model is named"),
        ('{"prompt": "p", "winner": "c", "models": ["a", "b"]}', "winner is 'c'"),
        ('{"prompt": "p", "winner": "a", "models": ["a", "b", "c"]}', "between two"),
        ('{"prompt": "p", "winner": "a", "models": ["a", "a"]}', "two different"),
    ],
)
def test_what_is_no_label_is_named_by_its_line(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "p", "models": {"a": {"score": 1}}}\n\n' + row + "\n", encoding="utf-8")
    with pytest.raises(InvalidRequest, match="line 3: ") as caught:
        read_lines(path)
    assert said in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_lines(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_lines(path)
    path.write_text("\n")
    with pytest.raises(InvalidRequest, match="no row"):
        read_lines(path)
    path.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n')
    assert read_prompts(path) == ["a", "b"]


ROWS = (
    {"prompt": "p", "models": {"b": {"score": 1, "answer": "x"}, "a": {"score": 0, "answer": "y"}}},
    {"prompt": "q", "models": {"a": {"score": 0, "answer": "y"}, "b": {"score": 0.5}}},
    {"prompt": "r", "models": {"a": {"score": 0}}},
)


def test_rows_are_ordered_by_cost_and_what_is_incomplete_is_told() -> None:
    costs = Costs({"a": 2.0, "b": 1.0}, "USD per million tokens")
    rows, told = to_rows(lines_of(*ROWS), costs)
    assert (rows.models, rows.costs, rows.prompts) == (("b", "a"), (1.0, 2.0), ("p", "q"))
    assert rows.quality.tolist() == [[1.0, 0.0], [0.5, 0.0]]
    assert rows.answers is None  # one of b's is missing
    assert told.lines == (
        "1 of 3 prompts left out: not every model has a label",
        "answers of b not used: 1 prompts have none",
    )
    assert to_rows(lines_of(*ROWS), Costs({"a": 1.0, "b": 2.0}, "USD per request"))[0].answers == ("y", "y")


@pytest.mark.parametrize(
    ("costs", "models", "said"),
    [
        (None, None, "no row says what a costs|no row says what b costs"),
        (Costs({"a": 1.0}, "USD per request"), None, "--cost names a, not b"),
        (Costs({"a": 1.0, "b": 1.0}, "USD per request"), None, "costs are"),
        (None, ["a"], "two models or more"),
        (None, ["a", "c"], "no row has a label of c"),
    ],
)
def test_rows_that_cannot_be_made(costs: Costs | None, models: list[str] | None, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        to_rows(lines_of(*ROWS), costs, models)


def test_no_prompt_has_every_label() -> None:
    labels = lines_of({"prompt": "p", "model": "a", "score": 1}, {"prompt": "q", "model": "b", "score": 1})
    with pytest.raises(InvalidRequest, match="no prompt has a label of each of a, b"):
        to_rows(labels, Costs({"a": 1.0, "b": 2.0}, "USD per request"))

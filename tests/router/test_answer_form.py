from typing import Any

import pytest

from farthing.router.answer_form import fault, fits
from farthing.upstreams import ToolDelta
from tests.ledger.leaf import a_call

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    "required": ["x"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("value", "schema", "wanted"),
    [
        ({"x": 1, "tags": ["a"]}, POINT, True),
        ({"x": 1.0}, POINT, True),
        ({"x": True}, POINT, False),
        ({"x": 1.5}, POINT, False),
        ({"tags": []}, POINT, False),
        ({"x": 1, "tags": ["c"]}, POINT, False),
        ({"x": 1, "y": 2}, POINT, False),
        (None, {"type": ["string", "null"]}, True),
        (3, {"const": 4}, False),
        (3, {"type": "of the future"}, True),
        (3, None, True),
        (3, False, False),
    ],
)
def test_a_schema_is_checked_by_its_shape(value: Any, schema: Any, wanted: bool) -> None:
    assert fits(value, schema) is wanted


def wrong(text: str = "", *deltas: ToolDelta, finish: str = "stop", **body: Any) -> str | None:
    return fault(a_call(body=body), text, deltas, finish)


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


TOOLS = [{"type": "function", "function": {"name": "add"}}]


def test_what_is_wrong_is_said_in_a_word_or_two() -> None:
    assert wrong("fine") is None
    assert wrong(" \n") == "empty"
    assert wrong("fine", finish="content_filter") == "filtered"
    assert wrong("[1]", response_format={"type": "json_object"}) == "not of its schema"
    assert wrong("{}", response_format={"type": "json_object"}) is None
    assert wrong("[" * 100_000, response_format={"type": "json_object"}) == "not JSON"
    assert wrong('{"x": 1}', response_format=schema(POINT)) is None
    assert wrong("{}", response_format=schema(POINT)) == "not of its schema"
    assert wrong("{}", response_format=schema({"enum": 5})) is None  # no schema: the upstream took it all the same


def test_tool_calls_are_json_for_a_tool_that_was_offered() -> None:
    pieces = (ToolDelta(0, "1", "add", '{"a"'), ToolDelta(0, arguments=": 1}"))
    assert wrong("", *pieces, tools=TOOLS) is None
    assert wrong("", *pieces, tools=[{"name": "add", "input_schema": {}}]) is None
    assert wrong("", *pieces, tools=[]) == "malformed tool call"
    assert wrong("", *pieces[:1], tools=TOOLS) == "malformed tool call"
    assert wrong("", ToolDelta(0, "1", "add", "[]"), tools=TOOLS) == "malformed tool call"
    assert wrong("text", tools=TOOLS, tool_choice="required") == "no tool call"

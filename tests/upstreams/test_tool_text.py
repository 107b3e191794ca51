"""Calls of tools found in text, however it is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farthing.upstreams.tool_format import ToolFormat
from farthing.upstreams.tool_text import tool_text

HERMES, LLAMA = ToolFormat("hermes"), ToolFormat("llama3")
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "}"]}}\n</tool_call>'
OTHER = '<tool_call>{"name":"g","arguments":{}}</tool_call>'


def read(format, pieces, *, is_parallel=True, is_cut=False):
    """Text and calls as (name, arguments)."""
    reader = tool_text(format, is_parallel=is_parallel)
    found = [reader.push(piece) for piece in pieces] + [reader.end(is_cut=is_cut)]
    calls = [call for _, calls in found for call in calls]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert len({call.id for call in calls}) == len(calls)
    return "".join(text for text, _ in found), [(call.name, _json(call.arguments)) for call in calls]


def _json(arguments):
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


F, G = ("f", {"a": [1, "}"]}), ("g", {})
CASES = [
    (HERMES, "no call at all <tool", "no call at all <tool", []),
    (HERMES, CALL, "", [F]),
    (HERMES, f"Let me see.\n\n{CALL}", "Let me see.", [F]),
    (HERMES, f"{CALL}\n{OTHER}\n", "", [F, G]),
    (HERMES, f"{CALL} and then", " and then", [F]),
    (HERMES, CALL.removesuffix("</tool_call>"), "", [F]),
    (HERMES, "<tool_call>no json</tool_call> x", "<tool_call>no json</tool_call> x", []),
    (HERMES, '<tool_call>["f"]</tool_call>', '<tool_call>["f"]</tool_call>', []),
    (HERMES, "a < b  \n c", "a < b  \n c", []),
    (LLAMA, '{"name": "f", "parameters": {"a": [1, "}"]}}', "", [F]),
    (LLAMA, ' {"name": "f", "arguments": {"a": [1, "}"]}}; {"name": "g", "parameters": {}}', "", [F, G]),
    (LLAMA, '{"temperature": 5}', '{"temperature": 5}', []),
    (LLAMA, 'It is {"name": "f"}', 'It is {"name": "f"}', []),
    (LLAMA, '{"name": "f", "para', '{"name": "f", "para', []),
]


@pytest.mark.parametrize(("format", "text", "said", "calls"), CASES)
def test_calls_are_found(format, text, said, calls):
    assert read(format, [text]) == (said, calls)
    assert read(format, list(text)) == (said, calls)


@given(data=st.data(), case=st.sampled_from(CASES))
def test_pieces_do_not_matter(data, case):
    format, text, said, calls = case
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(format, pieces) == (said, calls)


def test_only_the_first_is_a_call_where_only_one_may_be():
    assert read(HERMES, [CALL + OTHER], is_parallel=False) == ("", [F])
    two = '{"name": "g", "parameters": {}}{"name": "f", "parameters": {}}'
    assert read(LLAMA, [two], is_parallel=False) == ("", [G])


def test_a_call_that_was_cut_is_told_as_far_as_it_came():
    assert read(HERMES, ['<tool_call>\n{"name": "f", "arguments": {"a": [1'], is_cut=True) == ("", [("f", '{"a": [1')])
    assert read(LLAMA, ['{"name": "f", "parameters": {"a": [1'], is_cut=True) == ("", [("f", '{"a": [1')])
    assert read(HERMES, ['<tool_call>\n{"na'], is_cut=True) == ('<tool_call>\n{"na', [])


def test_text_comes_as_soon_as_it_is_no_call():
    reader = tool_text(HERMES, is_parallel=True)
    assert reader.push("Hello") == ("Hello", ())
    assert reader.push(" <to") == ("", ())
    assert reader.push("day>") == (" <today>", ())
    reader = tool_text(LLAMA, is_parallel=True)
    assert reader.push("Hel") == ("Hel", ())
    assert reader.push("{") == ("{", ())

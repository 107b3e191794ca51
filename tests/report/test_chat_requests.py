"""Requests as they were sent: every shape they come in, and every mistake named with its file, line and field."""

import json

import pytest

from farthing.errors import InvalidRequest
from farthing.report.chat_requests import parse_requests

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def test_one_object_a_list_and_lines() -> None:
    pretty = json.dumps(HELLO | {"model": "m", "temperature": 0.3, "n": 2}, indent=2)
    (one,) = parse_requests("a.json", b"\xef\xbb\xbf" + pretty.encode())
    assert (one.name, one.model, one.messages[0]["content"]) == ("a.json", "m", "hello")
    both = parse_requests("a.json", json.dumps([HELLO, HELLO]).encode())
    assert [each.name for each in both] == ["a.json, item 1", "a.json, item 2"]
    lines = parse_requests("a.jsonl", (json.dumps(HELLO) + "\n\n" + json.dumps(HELLO) + "\n").encode())
    assert [each.name for each in lines] == ["a.jsonl, line 1", "a.jsonl, line 3"]
    (single,) = parse_requests("a.jsonl", json.dumps(HELLO).encode() + b"\n")
    assert single.name == "a.jsonl"


def test_batch_lines_a_system_field_and_text_parts() -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": HELLO}
    assert parse_requests("b", json.dumps(line).encode())[0].messages[0]["content"] == "hello"
    parts = [{"type": "text", "text": "be "}, {"type": "text", "text": "brief\u2028"}]
    (found,) = parse_requests("b", json.dumps(HELLO | {"system": parts}, ensure_ascii=False).encode())
    assert found.messages[0] == {"role": "system", "content": "be brief\u2028"}


def test_tool_calls_need_no_content() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    (found,) = parse_requests("b", json.dumps({"messages": [call], "tools": [{"name": "t"}]}).encode())
    assert found.messages[0]["tool_calls"] == [{"id": "1"}]
    assert found.tools == ({"name": "t"},)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a: no request in it"),
        (b" \n\n", "a: no request in it"),
        (b"[]", "a: no request in it"),
        (b"hello", "a: not JSON (Expecting value, column 1)"),
        (b"{\n", "a: not JSON"),
        (b'{\n"messages": }', "a: not JSON (Expecting value, line 2, column 13)"),
        (b'{"messages": [{"role": "user", "content": "a"}]}\n{"mess', "a, line 2: not JSON"),
        (b"\xff\xfe", "a: not UTF-8 text (byte 0)"),
        (b"[" * 200_000, "a: JSON nested too deeply"),
        (b"1" * 10_000, "a: not JSON that can be read"),
        (b'"text"', "a: str instead of an object"),
        (b"[1]", "a, item 1: int instead of an object"),
        (b"{}", "a: 'messages' is missing or empty"),
        (b'{"messages": []}', "a: 'messages' is missing or empty"),
        (b'{"messages": {}}', "a: 'messages' is missing or empty"),
        (b'{"messages": ["hi"]}', "a, message 1: str instead of an object"),
        (b'{"messages": [{"content": "hi"}]}', "a, message 1: role is None; allowed: system, user"),
        (b'{"messages": [{"role": ["user"], "content": "hi"}]}', "a, message 1: role is ['user']"),
        (b'{"messages": [{"role": "user"}]}', "a, message 1: content is NoneType; allowed: a string"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "a, message 1: content is int"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content part of type 'image_url'"),
        (b'{"messages": [{"role": "user", "content": ["hi"]}]}', "content part of type None"),
        (b'{"messages": [{"role": "user", "content": "a"}], "model": 1}', "a: model is int"),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": {"a": 1}}', "a: tools is not a list of objects"),
        (b'{"messages": [{"role": "user", "content": "a"}], "tools": ["a"]}', "a: tools is not a list of objects"),
        (b'{"messages": [{"role": "user", "content": "a"}], "system": 1}', "a, message 1: content is int"),
    ],
)
def test_mistakes_are_named(content: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_requests("a", content)
    assert said in str(error.value)

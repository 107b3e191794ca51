import json
from pathlib import Path

import pytest

from farthing.errors import InvalidRequest
from farthing.report.workload import built_in, read_workload

GOOD = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "work.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n", encoding="utf-8")
    return path


def test_built_in_workload_has_what_the_levers_need() -> None:
    work = built_in()
    assert len(work.requests) >= 48
    assert not work.notes
    assert all(request.params.temperature == 0 for request in work.requests)
    systems = [r.messages[0].content for r in work.requests if r.messages[0].role == "system"]
    shared = [text for text in set(systems) if systems.count(text) >= 8]
    assert len(shared) >= 3
    multi_turn = [r for r in work.requests if sum(m.role == "user" for m in r.messages) > 1]
    assert len(multi_turn) >= 12
    for request in multi_turn:  # the turn before it is a request too, and comes earlier
        before = [r.messages for r in work.requests[: work.requests.index(request)]]
        assert request.messages[:-2] in before


def test_reads_what_openai_clients_write(tmp_path: Path) -> None:
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}
    work = read_workload(write(tmp_path, {**GOOD, "model": "x", "stop": "END"}, "", parts))
    assert work.requests[0].params.stop == ("END",)
    assert work.requests[1].messages[0].content == "ab"
    assert any("1 requests ask for sampling" in note for note in work.notes)
    assert any("no max_tokens" in note for note in work.notes)


def test_a_line_separator_inside_a_string_does_not_end_the_line(tmp_path: Path) -> None:
    line = json.dumps({**GOOD, "messages": [{"role": "user", "content": "a\u2028b"}]}, ensure_ascii=False)
    assert read_workload(write(tmp_path, line)).requests[0].messages[0].content == "a\u2028b"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: list instead of an object"),
        ("[" * 100_000, "line 2: JSON nested too deeply"),
        ({"max_tokens": 3}, "line 2: 'messages' is missing"),
        ({"messages": []}, "line 2: 'messages' is missing or empty"),
        ({**GOOD, "tools": []}, "line 2: field 'tools' is not supported"),
        ({**GOOD, "max_tokens": 0}, "line 2: max_tokens is 0"),
        ({**GOOD, "max_tokens": True}, "line 2: max_tokens is True"),
        ({**GOOD, "temperature": "hot"}, "line 2: temperature is 'hot'"),
        ({**GOOD, "stop": [""]}, "line 2: stop holds ''"),
        ({"messages": ["x"]}, "line 2, message 1: str instead of an object"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "line 2, message 1: role is 'robot'"),
        ({"messages": [{"role": "user"}]}, "line 2, message 1: content is NoneType"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "field 'tool_calls' is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "part of type 'image_url'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, expected: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        read_workload(write(tmp_path, GOOD, line))
    assert expected in str(error.value)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no request in it"):
        read_workload(write(tmp_path, "", "  "))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_workload(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_workload(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_workload(tmp_path / "latin.jsonl")

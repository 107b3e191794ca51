from dataclasses import replace
from typing import Any

import pytest

from farthing.router.question import read_question
from farthing.upstreams import UpstreamError
from tests.ledger.leaf import a_call

SYSTEM = {"role": "system", "content": "be brief"}
FIRST = {"role": "user", "content": "one?"}
ANSWER = {"role": "assistant", "content": "1"}
SECOND = {"role": "user", "content": [{"type": "text", "text": "two?"}, {"type": "image_url", "image_url": {}}]}
CALLS = {"role": "assistant", "content": None, "tool_calls": []}
RESULT = {"role": "tool", "content": "3"}
RESULT_BLOCKS = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "3"}]}


def asked(*messages: Any, **more: Any) -> Any:
    return read_question(a_call(body={"messages": list(messages)}, **more))


def test_the_prompt_is_the_last_thing_the_user_said() -> None:
    assert asked(SYSTEM, FIRST, ANSWER, SECOND).prompt == "two?"
    assert asked(SYSTEM, FIRST, CALLS, RESULT).prompt == "one?"
    assert asked(FIRST, CALLS, RESULT_BLOCKS).prompt == "one?"
    assert asked(SYSTEM).prompt == ""
    for prompt in ("a", ["a"]):
        assert read_question(a_call(wire="completions", body={"prompt": prompt})).prompt == "a"
    assert read_question(a_call(wire="completions", body={"prompt": ["a", "b"]})).num_choices == 2
    with pytest.raises(UpstreamError):
        read_question(a_call(body={"messages": [FIRST], "n": "x"}))


def test_a_conversation_is_found_by_what_came_before() -> None:
    first, second = asked(SYSTEM, FIRST), asked(SYSTEM, FIRST, ANSWER, SECOND)
    assert first.found_as is None
    assert second.found_as == first.stored_as
    assert asked(SYSTEM, FIRST, CALLS, RESULT).found_as == first.stored_as  # the same turn goes on
    assert asked(FIRST, ANSWER, SECOND).found_as != first.stored_as


def test_and_by_who_asks() -> None:
    first = asked(FIRST, key_id="a")
    assert asked(FIRST, key_id="a").stored_as == first.stored_as
    assert asked(FIRST, key_id="b").stored_as != first.stored_as
    assert asked(FIRST, salt="a").stored_as != first.stored_as
    body = {"messages": [FIRST], "tools": [{"type": "function"}]}
    assert read_question(replace(a_call(key_id="a"), body=body)).stored_as != first.stored_as

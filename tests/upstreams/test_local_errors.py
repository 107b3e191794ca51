"""Every field of a request to a local model: wrong values and unknown names are 400 and name the field."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.upstreams import UpstreamError
from farthing.upstreams.chat_request import read_chat
from farthing.upstreams.completion_request import read_completion
from tests.upstreams.tool_model import user

CHAT = {"model": "x", "messages": user("hi")}
TEXT = {"model": "x", "prompt": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

NUMBERS = ["1", "NaN", True, [], {}, math.nan, math.inf, -math.inf]
SAMPLING = [
    *(("temperature", value) for value in [*NUMBERS, -0.1, 2.1]),
    *(("top_p", value) for value in [*NUMBERS, 0, 1.1]),
    *(("min_p", value) for value in [*NUMBERS, -1, 1.1]),
    *(("repetition_penalty", value) for value in [*NUMBERS, 0, -1]),
    *((name, value) for name in ("presence_penalty", "frequency_penalty") for value in [*NUMBERS, -2.1, 2.1]),
    *(("top_k", value) for value in ["5", 1.5, True, -2, 2**31]),
    *(("seed", value) for value in ["5", 1.5, True, 2**64, -(2**63) - 1]),
    *(("n", value) for value in ["5", 1.5, True, 0, -1, 17, 10**30]),
    *(("max_tokens", value) for value in ["5", 1.5, True, 0, -1, 2**31, 10**30]),
    *(("stop", value) for value in ["", [""], [1], {}, 5, ["a"] * 17, "x" * 1001]),
    *(("logit_bias", value) for value in [[], "x", {"a": 1}, {"-1": 1}, {"1": "2"}, {"1": 101}, {"1": math.nan}]),
    *(("logit_bias", value) for value in [{"1": True}, {"²": 1}, {str(id): 1 for id in range(4097)}]),
    *(("ignore_eos", value) for value in [1, "true"]),
]
CHAT_ONLY = [
    *(("max_completion_tokens", value) for value in ["5", 0, -1, True]),
    *(("logprobs", value) for value in [1, "true"]),
    ("top_logprobs", 2),  # without logprobs
    ("service_tier", "flex"),
    ("response_format", "json"),
    ("response_format", {"type": "xml"}),
    ("response_format", {}),
    ("response_format", {"type": "json_schema"}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": "x"}}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": 5}}),
    ("parallel_tool_calls", "yes"),
    ("tools", {}),
    ("tools", ["f"]),
    ("tools", [{"function": {"name": "f"}}]),
    ("tools", [{"type": "function"}]),
    ("tools", [{"type": "function", "function": {"name": "f g"}}]),
    ("tools", [{"type": "function", "function": {"name": "f", "parameters": "x"}}]),
    ("tools", [{"type": "function", "function": {"name": "f", "description": 5}}]),
    ("tools", [TOOL, TOOL]),
    ("tools", [TOOL] * 129),
    ("tool_choice", "required"),  # without tools
    ("tool_choice", "sometimes"),
    ("tool_choice", {"type": "function", "function": {"name": "g"}}),
    ("tool_choice", {"type": "function"}),
    ("messages", None),
    ("messages", []),
    ("messages", "hi"),
    ("messages", [5]),
    ("messages", [{}]),
    ("messages", [{"role": "robot", "content": "hi"}]),
    ("messages", [{"role": ["user"], "content": "hi"}]),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "user", "content": 5}]),
    ("messages", [{"role": "user", "content": ["hi"]}]),
    ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
    ("messages", [{"role": "user", "content": [{"type": ["text"], "text": "x"}]}]),
    ("messages", [{"role": "assistant", "tool_calls": ["f"]}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]),
    ("messages", [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]),
]
UNSUPPORTED = [
    *(("foo", 1), ("functions", [TOOL]), ("audio", {}), ("modalities", ["text", "audio"]), ("reasoning_effort", "low")),
    ("store", True),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}]),
    ("messages", [{"role": "user", "content": "hi", "cache": 1}]),
    ("messages", [{"role": "assistant", "content": "hi", "function_call": {"name": "f"}}]),
    ("tools", [{"type": "function", "function": {"name": "f"}, "more": 1}]),
    ("response_format", {"type": "text", "more": 1}),
]
COMPLETIONS = [
    *(("prompt", value) for value in [None, 5, [], [[]], ["a", 5], [1, "a"], [[1], "a"], [True], [-1], [2**31], {}]),
    *(("prompt", value) for value in [["a"] * 65, [[-1]]]),
    *(("logprobs", value) for value in [True, -1, 21, "1"]),
    ("best_of", 0),
]
COMPLETIONS_UNSUPPORTED = [("best_of", 2), ("echo", True), ("suffix", "x"), ("messages", user("x")), ("foo", 1)]


def refusal(read, body):
    """What is said of this body; None where it is taken."""
    try:
        read(body)
    except UpstreamError as error:
        return error
    return None


def refused(read, body, name):
    with pytest.raises(UpstreamError) as caught:
        read(body)
    assert caught.value.status == 400
    assert caught.value.param.split(".")[0].split("[")[0] == name
    assert len(str(caught.value)) < 1000
    return caught.value.code


@pytest.mark.parametrize(("name", "value"), SAMPLING + CHAT_ONLY)
def test_chat_refuses_values(name, value):
    assert refused(read_chat, CHAT | {name: value}, name) == "invalid_value"


@pytest.mark.parametrize(("name", "value"), SAMPLING + COMPLETIONS)
def test_completions_refuse_values(name, value):
    assert refused(read_completion, TEXT | {name: value}, name) == "invalid_value"


@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
def test_chat_refuses_what_it_does_not_do(name, value):
    assert refused(read_chat, CHAT | {name: value}, name) == "unsupported_parameter"


@pytest.mark.parametrize(("name", "value"), COMPLETIONS_UNSUPPORTED)
def test_completions_refuse_what_they_do_not_do(name, value):
    assert refused(read_completion, TEXT | {name: value}, name) == "unsupported_parameter"


def test_a_misspelt_field_is_told_the_right_one():
    with pytest.raises(UpstreamError, match="did you mean temperature"):
        read_chat(CHAT | {"temprature": 1})


def test_two_lengths_that_differ_are_refused():
    assert refused(read_chat, CHAT | {"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens")
    assert read_chat(CHAT | {"max_tokens": 4, "max_completion_tokens": 4}).max_tokens == 4


def test_too_many_answers_in_all_are_refused():
    assert refused(read_completion, TEXT | {"prompt": ["a"] * 10, "n": 7}, "n")


def test_defaults_are_openais():
    asked = read_chat(CHAT)
    assert (asked.params.temperature, asked.params.top_p, asked.max_tokens, asked.n) == (1.0, 1.0, None, 1)
    assert read_completion(TEXT).max_tokens == 16


def test_a_conversation_with_calls_becomes_rows_for_the_template():
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    rows = read_chat(
        CHAT
        | {
            "messages": [
                {"role": "developer", "content": "be"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None, "annotations": []},
                {"role": "tool", "tool_call_id": "1", "content": "2"},
            ]
        }
    ).messages
    assert [row["content"] for row in rows] == ["be", "ab", "", "2"]
    assert rows[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert rows[3]["tool_call_id"] == "1"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SOME = ("messages", "prompt", "n", "stop", "seed", "tools", "tool_choice", "response_format", "logit_bias", "logprobs")
names = st.sampled_from([*SOME, "temperature", "top_k", "store", "max_tokens", "stream_options", "user"])


@settings(max_examples=200, deadline=None)
@given(
    body=st.dictionaries(names | st.text(max_size=5), anything, max_size=4),
    read=st.sampled_from([read_chat, read_completion]),
)
def test_any_json_is_read_or_refused(body, read):
    error = refusal(read, (CHAT if read is read_chat else TEXT) | body)
    assert error is None or (error.status == 400 and error.param is not None)


def test_numbers_beyond_every_float_are_refused():
    for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "seed", "n"):
        assert refused(read_chat, CHAT | {name: 10**400}, name) == "invalid_value"
    assert refused(read_chat, CHAT | {"logit_bias": {"1": 10**400}}, "logit_bias") == "invalid_value"

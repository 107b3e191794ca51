from typing import Any

import pytest

from farthing.upstreams import Call, UpstreamError
from farthing.upstreams.convert import as_chat, as_messages


def chat(**body: Any) -> dict[str, Any]:
    """The chat body of a messages body."""
    given = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]} | body
    call = as_chat(Call("1", "messages", given, "m", raw=b"{}"))
    assert (call.wire, call.raw) == ("chat", None)
    return dict(call.body)


def messages(**body: Any) -> dict[str, Any]:
    given = {"messages": [{"role": "user", "content": "hi"}]} | body
    call = as_messages(Call("1", "chat", given, "m", raw=b"{}"))
    assert (call.wire, call.raw) == ("messages", None)
    return dict(call.body)


def test_plain_fields() -> None:
    assert chat(system="s", stop_sequences=["x"], temperature=0.5, top_p=0.9, top_k=4, metadata={"user_id": "u"}) == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "stop": ["x"],
        "user": "u",
    }
    assert messages(temperature=0.5, stop="x", user="u", n=1, logprobs=False, seed=None, prompt_cache_key="k") == {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
    }
    assert messages(max_completion_tokens=5, max_tokens=7)["max_tokens"] == 5


def test_a_conversation_with_tools_and_pictures_to_chat() -> None:
    png = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": png}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "…", "signature": "s"},
                {"type": "text", "text": "let me"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": "é"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "so?", "cache_control": {"type": "ephemeral"}},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"}] * 2},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "image", "source": png}]},
            ],
        },
    ]
    tools = [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {}}]
    body = chat(messages=conversation, tools=tools, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, picture]},
        {
            "role": "assistant",
            "content": "let me",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":"é"}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "1\n1"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "so?"}, picture]},
    ]
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)


def test_a_conversation_with_tools_and_pictures_to_messages() -> None:
    def call(name: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}

    conversation = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "so?"},
    ]
    body = messages(messages=conversation, tools=[{"type": "function", "function": {"name": "f"}}])
    assert body["system"] == [
        {"type": "text", "text": "s"},
        {"type": "text", "text": "d", "cache_control": {"type": "ephemeral"}},
    ]
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": name, "name": "f", "input": {"x": 1}} for name in "ab"],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                {"type": "tool_result", "tool_use_id": "b", "content": "2"},
                {"type": "text", "text": "so?"},
            ],
        },
    ]
    assert body["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("thinking", {"type": "enabled", "budget_tokens": 5}, "thinking"),
        ("mcp_servers", [], "mcp_servers"),
        ("container", "x", "container"),
        ("service_tier", "standard_only", "service_tier"),
        ("metadata", {"user_id": "a", "more": 1}, "metadata.more"),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}], "tools.0.type"),
        ("messages", [{"role": "user", "content": [{"type": "document", "source": {}}]}], "messages.0.content.0.type"),
    ],
)
def test_what_chat_cannot_say(field: str, value: object, param: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        chat(**{field: value})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", param)
    assert param in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("n", 2),
        ("seed", 1),
        ("logprobs", True),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("reasoning_effort", "low"),
        ("audio", {}),
    ],
)
def test_what_messages_cannot_say(field: str, value: object) -> None:
    with pytest.raises(UpstreamError) as caught:
        messages(**{field: value})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "unsupported_parameter", field)


def test_hot_is_refused() -> None:
    with pytest.raises(UpstreamError, match="temperature must be 0 to 1"):
        messages(temperature=1.5)

"""Anthropic's wire, by itself and with Anthropic's own client."""

import asyncio
from decimal import Decimal
from typing import Any

import anthropic
import orjson
import pytest

from farthing.server.api import Ending
from farthing.server.messages import Messages, count_tokens
from farthing.upstreams import Call, Chunk, Receipt, Tally, ToolDelta, UpstreamError
from tests.server.wire_app import USAGE, Fake, events_of, served

API = Messages()
BODY: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TEXT = (Chunk("Hel"), Chunk("lo"), Chunk(finish_reason="stop"))
TOOLS = (
    Chunk("Look:"),
    Chunk(tool_calls=(ToolDelta(0, "call_a", "find"),)),
    Chunk(tool_calls=(ToolDelta(0, arguments='{"q": '),)),
    Chunk(tool_calls=(ToolDelta(0, arguments='"x"}'),)),
    Chunk(tool_calls=(ToolDelta(1, "call_b", "stop", "{}"),), finish_reason="tool_calls"),
)
RAW: tuple[dict[str, Any], ...] = (
    {"type": "message_start", "message": {"id": "msg_theirs", "type": "message", "role": "assistant", "content": [],
     "model": "claude-x-20260101", "stop_reason": None, "usage": {"input_tokens": 16, "output_tokens": 1}, "new": 1}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}, "unknown": [1]},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"},
     "usage": {"output_tokens": 5, "novel": 7}},
    {"type": "message_stop"},
)  # fmt: skip


def ending(cost_pico: int | None = 1_234_567, **tally: Any) -> Ending:
    full = Tally(**{"usage": USAGE, "usage_source": "provider", **tally})
    return Ending([Receipt("fake", "fake-1", full.usage, "provider", cost_pico, 9_000_000, "ok")], full)


def stream(chunks: tuple[Chunk, ...], body: dict[str, Any] = BODY) -> list[Any]:
    renderer = API.renderer(API.parse(body), "r1", 0)
    begun = renderer.start(Tally(usage=USAGE))
    return events_of(begun + b"".join(map(renderer.chunk, chunks)) + renderer.end(ending()))


def test_text_comes_as_one_block_between_start_and_stop() -> None:
    events = stream(TEXT)
    assert [event["type"] for event in events] == [
        *("message_start", "content_block_start", "content_block_delta", "content_block_delta"),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 16
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == {
        "input_tokens": 16,
        "cache_creation_input_tokens": 4,
        "cache_read_input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": 0.000001234567,
        "baseline_cost_usd": 0.000009,
    }


def test_each_tool_call_is_a_block_of_its_own() -> None:
    events = stream(TOOLS)
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [block["type"] for block in starts] == ["text", "tool_use", "tool_use"]
    assert starts[1] == {"type": "tool_use", "id": "call_a", "name": "find", "input": {}}
    open_now: int | None = None
    for event in events:  # a block ends before the next begins, and pieces are of the open one
        if event["type"] == "content_block_start":
            assert open_now is None
            open_now = event["index"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_now
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_now
            open_now = None
    assert open_now is None
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_an_answer_without_a_piece_is_still_a_message() -> None:
    assert [event["type"] for event in stream(())] == ["message_start", "message_delta", "message_stop"]


def test_the_providers_events_are_handed_on_and_the_cost_added() -> None:
    events = stream(tuple(Chunk(raw=raw) for raw in RAW))
    assert events[0] == {**RAW[0], "message": {**RAW[0]["message"], "model": "m"}}
    assert events[1:5] == list(RAW[1:5])
    assert events[5]["delta"] == RAW[5]["delta"]
    assert events[5]["usage"] == {"output_tokens": 5, "novel": 7, "cost_usd": 1.234567e-06, "baseline_cost_usd": 9e-06}
    assert len(events) == 7


def test_a_providers_stream_that_a_budget_cut_is_ended_properly() -> None:
    chunks = (*(Chunk(raw=raw) for raw in RAW[:4]), Chunk(finish_reason="length"))
    events = stream(chunks)
    assert events[-3:-1][0] == {"type": "content_block_stop", "index": 0}
    assert events[-2]["delta"]["stop_reason"] == "max_tokens"


def test_whole_answers_say_what_streams_say() -> None:
    renderer = API.renderer(API.parse(BODY), "r1", 0)
    message = orjson.loads(orjson.dumps(renderer.whole(TOOLS, ending())))
    assert message["id"] == "msg_r1"
    assert message["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "tool_use", "id": "call_a", "name": "find", "input": {"q": "x"}},
        {"type": "tool_use", "id": "call_b", "name": "stop", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"


def test_a_providers_whole_answer_keeps_its_unknown_fields() -> None:
    whole = {"id": "msg_theirs", "model": "claude-x-20260101", "new": 1, "usage": {"input_tokens": 16, "novel": 2}}
    answer = API.renderer(API.parse(BODY), "r1", 0).whole((), ending(whole=whole))
    assert answer["model"] == "m"
    assert answer["new"] == 1
    assert answer["usage"]["novel"] == 2


def test_the_digits_of_a_cost_are_exact_and_an_unknown_one_is_null() -> None:
    renderer = API.renderer(API.parse(BODY), "r1", 0)
    raw = orjson.dumps(renderer.whole(TEXT, ending(123_456_789_012_345_678_901)))
    assert b'"cost_usd":123456789.012345678901,' in raw
    told = renderer.whole(TEXT, ending(None))["usage"]
    assert told["cost_usd"] is None
    assert orjson.dumps(told["baseline_cost_usd"]) == b"0.000009"


def test_counts_that_nobody_knows_are_null() -> None:
    answer = API.renderer(API.parse(BODY), "r1", 0).whole(TEXT, ending(None, usage_source="unavailable"))
    assert answer["usage"]["output_tokens"] is None


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    cut = (Chunk(tool_calls=(ToolDelta(0, "a", "f", '{"q": "x'),)), Chunk(finish_reason="length"))
    answer = API.renderer(API.parse(BODY), "r1", 0).whole(cut, ending())
    assert answer["content"][0]["input"] == {"unparsed_arguments": '{"q": "x'}
    assert answer["stop_reason"] == "max_tokens"


def test_reasoning_is_thinking_where_it_was_asked_for() -> None:
    chunks = (Chunk(reasoning="hm"), Chunk("Hello"), Chunk(finish_reason="stop"))
    kinds = [e["content_block"]["type"] for e in stream(chunks) if e["type"] == "content_block_start"]
    assert kinds == ["text"]
    body = {**BODY, "thinking": {"type": "enabled", "budget_tokens": 1024}}
    kinds = [e["content_block"]["type"] for e in stream(chunks, body) if e["type"] == "content_block_start"]
    assert kinds == ["thinking", "text"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "judge", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages.0.content.0"),
        ({"system": 3}, "system"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"thinking": True}, "thinking"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        API.parse({**BODY, **change})
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"),
     (418, "invalid_request_error"), (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"),
     (503, "overloaded_error")],
)  # fmt: skip
def test_errors_have_anthropics_names(status: int, kind: str) -> None:
    body = API.error_body(UpstreamError("no", status=status, code="c"), "req_1")
    assert body == {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "req_1"}


def test_a_providers_own_error_is_handed_on() -> None:
    theirs: dict[str, object] = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    error = UpstreamError("x", status=529, code="c", body=theirs)
    assert API.error_body(error, "req_1")["error"] == theirs["error"]


def test_the_client_reads_answers_whole_and_streamed() -> None:
    with served(API, Fake(TOOLS)) as url:
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        message = client.messages.create(**BODY)
        assert message.content[1].input == {"q": "x"}
        assert message.usage.cache_read_input_tokens == 10
        assert Decimal(str(message.usage.cost_usd)) == Decimal("0.000001234567")
        with client.messages.stream(**BODY) as streamed:
            assert "".join(streamed.text_stream) == "Look:"
            final = streamed.get_final_message()
        assert [block.type for block in final.content] == ["text", "tool_use", "tool_use"]
        assert final.content[1].input == {"q": "x"}
        assert final.stop_reason == "tool_use"
        assert final.usage.input_tokens == 16
        kinds = [event.type for event in client.messages.create(**BODY, stream=True)]
        assert kinds[-1] == "message_stop"
        counted = client.messages.count_tokens(model="m", messages=BODY["messages"])
        assert counted.input_tokens == 42


def test_the_client_reads_anthropics_own_events() -> None:
    upstream = Fake(tuple(Chunk(raw=raw) for raw in RAW))
    with served(API, upstream) as url:
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        with client.messages.stream(**BODY) as streamed:
            final = streamed.get_final_message()
    assert (final.id, final.model, final.stop_sequence) == ("msg_theirs", "m", "END")
    assert final.content[0].text == "Hello"


def test_the_async_client_and_its_errors() -> None:
    async def tour(url: str) -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            assert (await client.messages.create(**BODY)).content[0].text == "Hello"
            async with client.messages.stream(**BODY) as streamed:
                assert await streamed.get_final_text() == "Hello"
            with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
                await client.messages.create(**{**BODY, "max_tokens": 0})

    with served(API, Fake(TEXT)) as url:
        asyncio.run(tour(url))


def test_the_client_is_told_of_a_stream_that_breaks_off() -> None:
    broken = Fake(TEXT[:2], UpstreamError("gone", status=502, code="upstream_failed"))
    with served(API, broken) as url:
        client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.APIStatusError, match="gone"), client.messages.stream(**BODY) as streamed:
            streamed.until_done()


def test_a_provider_that_counts_is_asked_and_others_count_the_prompt() -> None:
    class Counting(Fake):
        async def count_tokens(self, call: Call) -> dict[str, Any]:
            return {"input_tokens": 7, "theirs": call.model}

    asked = API.parse_count({name: value for name, value in BODY.items() if name != "max_tokens"})
    call = Call("r1", asked.wire, asked.body, "served")
    assert asyncio.run(count_tokens(Counting(), call)) == {"input_tokens": 7, "theirs": "served"}
    assert asyncio.run(count_tokens(Fake(), call)) == {"input_tokens": 42}
    assert "max_tokens" not in call.body

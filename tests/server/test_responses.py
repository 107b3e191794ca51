"""OpenAI's responses, by themselves and with OpenAI's own client."""

import asyncio
from decimal import Decimal
from typing import Any

import openai
import orjson
import pytest

from farthing.server.api import Ending
from farthing.server.responses import Responses
from farthing.upstreams import Chunk, Receipt, Tally, TokenLogprob, ToolDelta, UpstreamError
from tests.server.wire_app import USAGE, Fake, events_of, served

API = Responses()
BODY: dict[str, Any] = {"model": "m", "input": "hi"}
TEXT = (Chunk("Hel"), Chunk("lo"), Chunk(finish_reason="stop"))
TOOLS = (
    Chunk("Look:"),
    Chunk(tool_calls=(ToolDelta(0, "call_a", "find"),)),
    Chunk(tool_calls=(ToolDelta(0, arguments='{"q": '),)),
    Chunk(tool_calls=(ToolDelta(0, arguments='"x"}'),)),
    Chunk(tool_calls=(ToolDelta(1, "call_b", "halt", "{}"),), finish_reason="tool_calls"),
)
FUNCTION = {"type": "function", "name": "find", "parameters": {"type": "object"}, "strict": True}


def ending(**tally: Any) -> Ending:
    full = Tally(**{"usage": USAGE, "usage_source": "provider", **tally})
    return Ending([Receipt("fake", "fake-1", full.usage, "provider", 1_234_567, 9_000_000, "ok")], full)


def stream(chunks: tuple[Chunk, ...], **body: Any) -> list[Any]:
    renderer = API.renderer(API.parse({**BODY, **body}), "r1", 1_700_000_000)
    return events_of(renderer.start(Tally()) + b"".join(map(renderer.chunk, chunks)) + renderer.end(ending()))


def whole(chunks: tuple[Chunk, ...], end: Ending | None = None, **body: Any) -> Any:
    renderer = API.renderer(API.parse({**BODY, **body}), "r1", 1_700_000_000)
    return orjson.loads(orjson.dumps(renderer.whole(chunks, end or ending())))


def kinds(events: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_text_comes_as_one_item_with_one_part() -> None:
    events = stream(TEXT)
    assert kinds(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[2]["item"]["content"] == []
    assert events[3]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert events[6]["text"] == "Hello"
    assert events[-1]["response"] == whole(TEXT)


def test_each_tool_call_is_an_item_of_its_own() -> None:
    events = stream(TOOLS)
    assert kinds(events)[8:] == [
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    calls = [item for item in events[-1]["response"]["output"] if item["type"] == "function_call"]
    assert [(call["call_id"], call["name"], call["arguments"], call["status"]) for call in calls] == [
        ("call_a", "find", '{"q": "x"}', "completed"),
        ("call_b", "halt", "{}", "completed"),
    ]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


def test_usage_has_the_cost_in_exact_digits() -> None:
    assert whole(TEXT)["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 35,
        "cost_usd": 0.000001234567,
        "baseline_cost_usd": 0.000009,
    }
    assert whole(TEXT, ending(usage_source="unavailable"))["usage"] is None


def test_an_answer_cut_short_is_incomplete() -> None:
    cut = (Chunk("Hel", finish_reason="length"),)
    assert kinds(stream(cut))[-1] == "incomplete"
    answer = whole(cut, ending(is_cut=True))
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["usage"]["ended_by"] == "budget"


def test_a_response_repeats_what_was_asked() -> None:
    asked = {"instructions": "Be brief.", "tools": [FUNCTION], "metadata": {"a": "b"}, "max_output_tokens": 9}
    answer = whole(TEXT, **asked)
    assert {name: answer[name] for name in asked} == asked
    assert answer["store"] is False
    assert answer["text"] == {"format": {"type": "text"}}


def test_what_changes_nothing_is_no_error() -> None:
    said = [{"role": "user", "content": "hi", "id": "msg_1"}]
    thoughts = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
    plain = API.parse({**BODY, "input": said})
    again = API.parse({**BODY, "input": [thoughts, *said], "include": ["reasoning.encrypted_content"]})
    assert again.body == plain.body


def test_log_probabilities_are_told_where_asked_for() -> None:
    token = TokenLogprob("Hi", b"Hi", -0.5, (("Ho", b"Ho", float("-inf")),))
    chunks = (Chunk("Hi", logprobs=(token,)), Chunk(finish_reason="stop"))
    assert whole(chunks)["output"][0]["content"][0]["logprobs"] == []
    told = whole(chunks, top_logprobs=1)["output"][0]["content"][0]["logprobs"]
    top = [{"token": "Ho", "bytes": [72, 111], "logprob": -9999.0}]
    assert told == [{"token": "Hi", "bytes": [72, 105], "logprob": -0.5, "top_logprobs": top}]


def test_half_a_surrogate_pair_harms_nobody() -> None:
    assert whole((Chunk("a\ud83d", finish_reason="stop"),))["output"][0]["content"][0]["text"] == "a\ufffd"


def test_a_stream_that_breaks_off_says_so() -> None:
    renderer = API.renderer(API.parse(BODY), "r1", 0)
    error = UpstreamError("gone", status=502, code="upstream_failed")
    events: list[Any] = events_of(renderer.start(Tally()) + renderer.chunk(TEXT[0]) + renderer.failed(error))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert events[-2]["message"] == "gone"
    assert events[-1]["response"]["error"] == {"code": "server_error", "message": "gone"}
    assert events[-1]["response"]["status"] == "failed"


def test_items_become_chat_messages() -> None:
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Look:"}]},
        {"type": "function_call", "call_id": "a", "name": "find", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "found"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "none"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]},
    ]
    asked = API.parse({"model": "m", "input": items, "instructions": "Be brief."})
    calls = [{"id": n, "type": "function", "function": {"name": "find", "arguments": "{}"}} for n in "ab"]
    assert asked.wire == "chat"
    assert asked.is_body_changed
    assert asked.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Look:", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "found"},
        {"role": "tool", "tool_call_id": "b", "content": "none"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
    ]


def test_what_an_answer_put_out_can_be_put_in_again() -> None:
    output = whole(TOOLS)["output"]
    messages = API.parse({"model": "m", "input": [{"role": "user", "content": "hi"}, *output]}).body["messages"]
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_a", "call_b"]
    assert messages[1]["content"] == "Look:"


def test_options_become_those_of_chat() -> None:
    schema = {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}
    given = {
        **BODY,
        "max_output_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "text": {"format": schema},
        "tools": [FUNCTION],
        "tool_choice": {"type": "function", "name": "find"},
        "reasoning": {"effort": "low", "summary": None},
        "store": False,
        "previous_response_id": None,
        "top_logprobs": 2,
        "stream": True,
    }
    body = API.parse(given).body
    del body["messages"]
    assert body == {
        "model": "m",
        "max_completion_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "response_format": {"type": "json_schema", "json_schema": {k: v for k, v in schema.items() if k != "type"}},
        "tools": [{"type": "function", "function": {k: v for k, v in FUNCTION.items() if k != "type"}}],
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input"),
        ({"input": [{"role": "judge", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": {}, "content": "x"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["reasoning.encrypted_content", "thoughts"]}, "include"),
        ({"include": [[]]}, "include"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"never_heard_of": 1}, "never_heard_of"),
    ],
)
def test_what_is_wrong_or_not_supported_is_named(change: dict[str, Any], param: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        API.parse({**BODY, **change})
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_client_reads_answers_whole_and_streamed() -> None:
    with served(API, Fake(TOOLS)) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        response = client.responses.create(**BODY)
        assert response.output_text == "Look:"
        assert response.usage.input_tokens_details.cached_tokens == 10
        assert Decimal(str(response.usage.cost_usd)) == Decimal("0.000001234567")
        with client.responses.stream(**BODY) as streamed:
            deltas = [event.delta for event in streamed if event.type == "response.output_text.delta"]
            final = streamed.get_final_response()
        assert deltas == ["Look:"]
        assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
        assert final.output[1].arguments == '{"q": "x"}'
        events = list(client.responses.create(**BODY, stream=True))
        assert events[-1].type == "response.completed"
        assert events[-1].response.status == "completed"
        assert events[-1].response.id == events[0].response.id == response.id


def test_the_async_client_its_errors_and_a_stream_that_breaks_off() -> None:
    upstream = Fake(TEXT)

    async def tour(url: str) -> None:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            assert (await client.responses.create(**BODY)).output_text == "Hello"
            async with client.responses.stream(**BODY) as streamed:
                assert (await streamed.get_final_response()).output_text == "Hello"
            with pytest.raises(openai.BadRequestError, match="not stored") as caught:
                await client.responses.create(**BODY, previous_response_id="resp_1")
            assert caught.value.param == "previous_response_id"
            upstream.error = UpstreamError("gone", status=502, code="upstream_failed")
            seen = [event.type async for event in await client.responses.create(**BODY, stream=True)]
            assert seen[-1] == "response.failed"

    with served(API, upstream) as url:
        asyncio.run(tour(url))


def test_what_an_upstream_says_of_chats_fields_is_told_of_ours() -> None:
    error = UpstreamError("no", status=400, code="unsupported_parameter", param="response_format")
    expected = {"message": "no", "type": "invalid_request_error", "param": "text.format", "code": error.code}
    assert API.error_body(error, "r1") == {"error": expected}

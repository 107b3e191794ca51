import asyncio
import os
from dataclasses import replace
from typing import Any
from unittest import mock

import orjson
import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import Tally, UpstreamError
from farthing.upstreams.anthropic import AnthropicUpstream, from_config
from tests.upstreams.provider import WIRE, Answer, Provider, as_json, collect, golden, make_call, run, said

CACHED = Usage(189_307, 1200, 89, cache_write_tokens=188_086, cache_write_1h_tokens=100_000)


def upstream(up_at: Provider, **table: Any) -> AnthropicUpstream:
    return from_config("claude", {"base_url": up_at.url, "backoff_s": 0.001} | table)


async def play(answer: Answer, call: Any, **table: Any) -> tuple[Any, Tally, Provider]:
    """(chunks or the error, tally, provider)."""
    tally = Tally()
    async with Provider(answer) as provider:
        up = upstream(provider, **table)
        try:
            result: Any = await collect(up, call, tally)
        except UpstreamError as error:
            result = error
        await up.aclose()
    return result, tally, provider


def test_streamed_and_whole_say_and_cost_the_same() -> None:
    streamed, tally, _ = run(play(golden("anthropic.sse"), make_call("messages")))
    whole, whole_tally, _ = run(play(golden("anthropic.json"), make_call("messages", is_stream=False)))
    assert tally.usage == whole_tally.usage == CACHED
    assert tally.usage_source == whole_tally.usage_source == "provider"
    assert tally.model == whole_tally.model == "claude-haiku-4-5-20251001"
    assert said(streamed) == said(whole)
    assert said(whole)["tools"] == {0: ["toolu_01", "get_weather", '{"city":"Paris"}']}
    assert (said(whole)["finishes"], said(whole)["texts"]) == ([["tool_calls"]], ["Let me look — 一秒"])
    assert whole_tally.whole == orjson.loads((WIRE / "anthropic.json").read_bytes())


def test_every_event_goes_along() -> None:
    chunks, _, _ = run(play(golden("anthropic.sse"), make_call("messages")))
    lines = (WIRE / "anthropic.sse").read_text().splitlines()
    assert [chunk.raw for chunk in chunks] == [orjson.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_cache_that_grows_during_the_answer() -> None:
    chunks, tally, _ = run(play(golden("anthropic_server_tool.sse"), make_call("messages")))
    assert tally.usage == Usage(3412, 500, 40, cache_write_tokens=2900)
    assert said(chunks)["tools"] == {}  # Anthropic's own servers ran it


def test_what_goes_out() -> None:
    system = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    call = make_call("messages", system=system, thinking={"type": "enabled", "budget_tokens": 50}, stream=True)
    call = replace(call, headers={"anthropic-beta": "context-1m", "x-api-key": "theirs", "authorization": "theirs"})
    with mock.patch.dict(os.environ, {"KEY": "sk-ant-ours"}):
        _, _, provider = run(play(golden("anthropic.sse"), call, api_key_env="KEY"))
    path, headers, sent = provider.requests[0]
    assert (path, sent) == ("/v1/messages", {**call.body, "model": "model-x"})
    assert (headers["x-api-key"], headers["anthropic-beta"]) == ("sk-ant-ours", "context-1m")
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


@pytest.mark.parametrize(("budget", "sent", "is_cut"), [(20, 20, True), (100, 100, False), (500, 100, False)])
def test_limits(budget: int, sent: int, is_cut: bool) -> None:
    body = golden("anthropic.sse").body.replace(b'"stop_reason":"tool_use"', b'"stop_reason":"max_tokens"')
    call = replace(make_call("messages"), max_output_tokens=budget)
    _, tally, provider = run(play(Answer(body), call))
    assert (provider.requests[0][2]["max_tokens"], tally.is_cut) == (sent, is_cut)


def test_chat_is_converted() -> None:
    chunks, tally, provider = run(play(golden("anthropic.sse"), make_call(stop="x", max_tokens=7)))
    assert provider.requests[0][2] == {
        "model": "model-x",
        "max_tokens": 7,
        "messages": [{"role": "user", "content": "Say hello"}],
        "stop_sequences": ["x"],
        "stream": True,
    }
    assert all(chunk.raw is None for chunk in chunks)
    assert said(chunks)["texts"] == ["Let me look — 一秒"]
    _, tally, _ = run(play(golden("anthropic.json"), make_call(is_stream=False)))
    assert (tally.whole, tally.usage) == (None, CACHED)


def test_completions_are_refused() -> None:
    error, _, provider = run(play(golden("anthropic.sse"), make_call("completions")))
    assert (error.status, error.code, provider.requests) == (400, "unsupported_endpoint", [])


def test_error_midway_keeps_the_input_that_was_reported() -> None:
    error, tally, _ = run(play(golden("anthropic_error.sse"), make_call("messages")))
    assert (error.status, error.is_retryable) == (502, False)
    assert tally.usage_source == "estimated"
    assert tally.usage == replace(CACHED, output_tokens=3)


def test_an_error_before_any_content_may_be_tried_elsewhere() -> None:
    events = (WIRE / "anthropic_error.sse").read_text().split("\n\n")
    body = "\n\n".join([events[0], *events[-2:]]).encode()  # message_start, then the error
    error, tally, _ = run(play(Answer(body), make_call("messages")))
    assert (error.status, error.is_retryable) == (502, True)
    assert (tally.usage_source, tally.usage.input_tokens) == ("estimated", CACHED.input_tokens)


def test_closing_early() -> None:
    async def leave() -> Tally:
        tally = Tally()
        half = golden("anthropic.sse").body.partition(b"event: message_delta")[0]
        async with Provider(Answer(half, is_stuck=True)) as provider:
            up = upstream(provider)
            chunks = up.stream(make_call("messages"), tally)
            while not (await anext(chunks)).text:
                pass
            await chunks.aclose()  # type: ignore[attr-defined]
            await asyncio.wait_for(provider.closed.wait(), 5)
            await up.aclose()
        return tally

    tally = run(leave())
    assert (tally.usage_source, tally.usage.input_tokens) == ("estimated", CACHED.input_tokens)
    assert tally.usage.output_tokens > 1


def test_refusals() -> None:
    said_body = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: required"}}
    error, _, _ = run(play(as_json(said_body, 400), make_call("messages")))
    assert (error.status, error.code, error.body) == (400, "invalid_request_error", said_body)
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    error, _, provider = run(play(as_json(overloaded, 529), make_call("messages")))
    assert (error.status, len(provider.requests), error.is_retryable) == (502, 3, True)


def test_count_tokens() -> None:
    async def count(answer: Answer, call: Any) -> tuple[dict[str, Any], Any]:
        async with Provider(answer) as provider:
            up = upstream(provider)
            try:
                return await up.count_tokens(call), provider.requests[0]
            finally:
                await up.aclose()

    call = make_call("messages", stream=False, temperature=1, system="s")
    counted, (path, _, sent) = run(count(as_json({"input_tokens": 14}), call))
    assert (counted, path) == ({"input_tokens": 14}, "/v1/messages/count_tokens")
    assert sent == {"messages": call.body["messages"], "system": "s", "model": "model-x"}
    with pytest.raises(UpstreamError):
        run(count(as_json({"tokens": 14}), call))


@pytest.mark.parametrize(
    "event",
    [
        b"[1]",
        b"{",
        b'{"type":"message_start"}',
        b'{"type":"message_start","message":{"usage":{"input_tokens":-4}}}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":5}}',
        b'{"type":"content_block_start","index":"a","content_block":{"type":"tool_use"}}',
        b'{"type":"content_block_start","index":0,"content_block":[]}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1e99}}',
    ],
)
def test_hostile_answers_are_502(event: bytes) -> None:
    error, tally, _ = run(play(Answer(b"data: " + event + b"\n\n"), make_call("messages"), retries=0))
    assert isinstance(error, UpstreamError)
    assert error.status == 502
    assert min(vars(tally.usage).values()) >= 0
    error, _, _ = run(play(Answer(event, type="application/json"), make_call("messages", is_stream=False), retries=0))
    assert isinstance(error, UpstreamError)
    assert error.status == 502

import asyncio
import os
from dataclasses import replace
from typing import Any
from unittest import mock

import orjson
import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import Tally, UpstreamError
from farthing.upstreams.openai import OpenAIUpstream, from_config
from tests.upstreams.provider import EVENTS, JSON, Answer, Provider, as_json, collect, golden, make_call, run, said

USAGES = {
    "openai": Usage(2048, 1920, 214, reasoning_tokens=192),
    "openai_tools": Usage(131, 0, 43),
    "vllm": Usage(27, 0, 4),
    "llamacpp": Usage(21, 12, 3),
    "groq": Usage(40, 32, 5),
    "deepseek": Usage(300, 256, 58, reasoning_tokens=50),
    "moonshot": Usage(90, 64, 2),
    "xai": Usage(32, 8, 375, reasoning_tokens=348),
    "openrouter": Usage(5000, 3000, 12, cache_write_tokens=1500),
    "completions": Usage(6, 0, 4),
}


def upstream(up_at: Provider, **table: Any) -> OpenAIUpstream:
    return from_config("up", {"base_url": up_at.url, "backoff_s": 0.001} | table)


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


@pytest.mark.parametrize("name", USAGES)
def test_streamed_and_whole_say_and_cost_the_same(name: str) -> None:
    wire = "completions" if name == "completions" else "chat"
    streamed, tally, _ = run(play(golden(f"{name}.sse"), make_call(wire)))
    whole, whole_tally, _ = run(play(golden(f"{name}.json"), make_call(wire, is_stream=False)))
    assert tally.usage == whole_tally.usage == USAGES[name]
    assert tally.usage_source == whole_tally.usage_source == "provider"
    assert tally.model == whole_tally.model == whole_tally.whole["model"]
    assert said(streamed) == said(whole)
    assert said(streamed)["texts"][0] or said(streamed)["tools"]


def test_raw_is_the_providers_chunk_without_usage_and_choices_alone() -> None:
    chunks, _, _ = run(play(golden("openai.sse"), make_call()))
    assert chunks[0].raw["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all("obfuscation" in chunk.raw and "usage" not in chunk.raw for chunk in chunks)
    assert [chunk.raw["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"  # no chunk for usage alone
    chunks, _, _ = run(play(golden("completions.sse"), make_call("completions")))
    assert [[choice["index"] for choice in chunk.raw["choices"]] for chunk in chunks] == [[0], [1], [0], [1]]
    assert chunks[1].logprobs[0].top == ((" b", b" b", -0.25), ("x", b"x", -3.5))


def test_what_goes_out() -> None:
    body = {"temperature": 0.5, "cache_control": {"type": "ephemeral"}, "unknown": [1, {"a": None}], "stream": True}
    call = replace(
        make_call(**body, stream_options={"x": 1}),
        headers={"cookie": "no", "traceparent": "00-1", "openai-beta": "é\n"},
    )
    with mock.patch.dict(os.environ, {"UP_KEY": "sk-secret"}):
        _, _, provider = run(play(golden("openai.sse"), call, api_key_env="UP_KEY", headers={"X-Title": "t"}))
    path, headers, sent = provider.requests[0]
    assert path == "/v1/chat/completions"
    options = {"x": 1, "include_usage": True}
    assert sent == {**call.body, "model": "model-x", "stream_options": options}
    assert call.body["stream_options"] == {"x": 1}
    assert (headers["authorization"], headers["x-title"]) == ("bearer sk-secret", "t")
    assert headers["traceparent"] == "00-1"
    assert headers.keys().isdisjoint({"cookie", "openai-beta"})
    _, _, provider = run(play(golden("openai.json"), make_call(is_stream=False, stream=False, stream_options=None)))
    assert provider.requests[0][2].keys() == {"messages", "model"}
    _, _, provider = run(play(golden("openai.sse"), make_call(), include_usage=False))
    assert "stream_options" not in provider.requests[0][2]


@pytest.mark.parametrize(
    ("body", "budget", "table", "sent", "is_cut"),
    [
        ({"max_tokens": 50}, 20, {}, {"max_tokens": 20}, True),
        ({"max_tokens": 50}, 50, {}, {"max_tokens": 50}, False),
        ({"max_tokens": 10}, 20, {}, {"max_tokens": 10}, False),
        ({"max_completion_tokens": 50}, 20, {}, {"max_completion_tokens": 20}, True),
        ({"max_tokens": 50, "n": 2}, 20, {}, {"max_tokens": 10}, True),
        ({}, 20, {}, {"max_tokens": 20}, True),
        ({"max_tokens": None}, 20, {}, {"max_tokens": 20}, True),
        ({}, 20, {"provider": "openai"}, {"max_completion_tokens": 20}, True),
        ({}, 20, {"limit_field": "max_completion_tokens"}, {"max_completion_tokens": 20}, True),
        ({}, 20, {"provider": "openai", "limit_field": "max_tokens"}, {"max_tokens": 20}, True),
        ({"max_tokens": 50}, 20, {"provider": "openai"}, {"max_tokens": 20}, True),
        ({}, None, {"max_output_tokens": 30}, {"max_tokens": 30}, False),
        ({}, 40, {"max_output_tokens": 30}, {"max_tokens": 30}, False),
        ({}, None, {}, {}, False),
    ],
)
def test_limits(body: Any, budget: int | None, table: Any, sent: Any, is_cut: bool) -> None:
    call = replace(make_call(**body), max_output_tokens=budget)
    _, tally, provider = run(play(golden("vllm.sse"), call, **table))  # that answer ends with "length"
    out = provider.requests[0][2]
    assert {key: out[key] for key in out if key.startswith("max_")} == sent
    assert tally.is_cut is is_cut


def test_messages_are_converted() -> None:
    call = make_call("messages", system="Be brief", stop_sequences=["x"])
    chunks, tally, provider = run(play(golden("openai.sse"), call, provider="openai"))
    sent = provider.requests[0][2]
    assert sent["messages"] == [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Say hello"}]
    assert (sent["max_completion_tokens"], sent["stop"]) == (100, ["x"])
    assert "max_tokens" not in sent
    assert all(chunk.raw is None for chunk in chunks)
    _, tally, _ = run(play(golden("openai.json"), replace(call, is_stream=False)))
    assert tally.whole is None
    error, _, provider = run(play(golden("openai.sse"), make_call("messages", thinking={"type": "enabled"})))
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", "thinking")
    assert not provider.requests


def test_closing_early_closes_the_connection_and_estimates() -> None:
    head = (b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"' + b"word " * 40 + b'"}}]}\n\n') * 2

    async def leave() -> Tally:
        tally = Tally()
        async with Provider(Answer(head, is_stuck=True)) as provider:
            up = upstream(provider)
            chunks = up.stream(make_call(), tally)
            await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]
            await asyncio.wait_for(provider.closed.wait(), 5)
            await up.aclose()
        return tally

    tally = run(leave())
    assert (tally.usage_source, tally.model) == ("estimated", "m")
    assert (tally.usage.input_tokens, tally.usage.output_tokens) == (9, 50)


def test_cancelled_before_the_first_byte_counts_the_input() -> None:
    async def leave() -> Tally:
        tally = Tally()
        async with Provider(Answer(wait_s=10)) as provider:
            up = upstream(provider)
            task = asyncio.create_task(collect(up, make_call(), tally))
            while not provider.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await up.aclose()
        return tally

    tally = run(leave())
    assert (tally.usage_source, tally.usage) == ("estimated", Usage(9, 0, 0))


@pytest.mark.parametrize("name", ["vllm_error.sse", "llamacpp_error.sse"])
def test_error_midway(name: str) -> None:
    error, tally, _ = run(play(golden(name), make_call()))
    assert (error.status, error.is_retryable) == (502, False)
    assert tally.usage_source == "estimated"
    assert tally.usage.output_tokens > 0


def test_error_as_the_first_event_may_be_tried_elsewhere() -> None:
    event = {"error": {"message": "busy", "type": "overloaded", "code": 503}}
    error, tally, _ = run(play(Answer(b"data: " + orjson.dumps(event) + b"\n\n"), make_call()))
    assert (error.status, error.is_retryable, tally.usage) == (502, True, Usage())


def test_broken_midway_and_cut_off() -> None:
    half = golden("openai.sse").body[:1200]
    for answer in (Answer(half, is_broken=True), Answer(half)):
        error, tally, _ = run(play(answer, make_call()))
        assert (error.code, error.status, error.is_retryable) == ("upstream_broke_off", 502, False)
        assert tally.usage_source == "estimated"


def test_an_end_without_done_is_an_end() -> None:
    body = golden("deepseek.sse").body.removesuffix(b"data: [DONE]\n\n").rstrip()
    chunks, tally, _ = run(play(Answer(body), make_call()))
    assert (said(chunks)["texts"], tally.usage, tally.usage_source) == (["42"], USAGES["deepseek"], "provider")


def test_no_usage_is_estimated() -> None:
    event = {"model": "old", "choices": [{"index": 0, "delta": {"content": "é" * 40}, "finish_reason": "stop"}]}
    body = b"data: " + orjson.dumps(event | {"usage": None}) + b"\n\ndata: [DONE]\n\n"
    _, tally, _ = run(play(Answer(body), make_call()))
    assert (tally.usage_source, tally.usage.output_tokens) == ("estimated", 20)


def test_a_stream_answered_in_one_piece() -> None:
    chunks, tally, _ = run(play(golden("openai.json"), make_call()))
    assert said(chunks)["texts"][0].startswith("A penny")
    assert (tally.usage, tally.whole) == (USAGES["openai"], None)


def test_connections_are_kept() -> None:
    async def twice() -> int:
        async with Provider(golden("openai.sse"), golden("openai.json"), golden("groq.sse")) as provider:
            up = upstream(provider)
            for is_stream in (True, False, True):
                await collect(up, make_call(is_stream=is_stream), Tally())
            await up.aclose()
            return provider.num_connections

    assert run(twice()) == 1


def test_models() -> None:
    async def listed(answer: Answer, **table: Any) -> list[str]:
        async with Provider(answer) as provider:
            up = upstream(provider, **table)
            try:
                return await up.models()
            finally:
                await up.aclose()

    answer = as_json({"object": "list", "data": [{"id": "a"}, {"id": "b"}, {"id": 7}, "x"]})
    assert run(listed(answer)) == run(listed(answer, models=["*"])) == ["a", "b"]
    assert run(listed(answer, models=["mine"])) == ["mine"]
    with pytest.raises(UpstreamError):
        run(listed(as_json({"data": 1})))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"data: {nonsense\n\n",
        b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n',
        b"data: [1]\n\n",
        b'data: {"choices":7}\n\n',
        b'data: {"choices":[7]}\n\n',
        b'data: {"choices":[{"delta":[]}]}\n\n',
        b'data: {"choices":[{"index":-1,"delta":{}}]}\n\n',
        b'data: {"choices":[{"index":"0","delta":{}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":5}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":[{}]}}]}\n\n',
        b'data: {"choices":[{"delta":{"tool_calls":{"a":1}}}]}\n\n',
        b'data: {"choices":[{"delta":{},"logprobs":[1]}]}\n\n',
        b'data: {"choices":[{"delta":{},"logprobs":{"content":[{"token":1}]}}]}\n\n',
        b'data: {"choices":[{"delta":{},"finish_reason":{}}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":-5}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":1e30}}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"",
    ],
)
def test_hostile_answers_are_502(body: bytes) -> None:
    error, tally, _ = run(play(Answer(body), make_call(), retries=0))
    assert isinstance(error, UpstreamError)
    assert error.status == 502
    assert min(vars(tally.usage).values()) >= 0
    whole = body.removeprefix(b"data: ").strip().replace(b'"delta"', b'"message"')
    error, tally, _ = run(play(Answer(whole, type=JSON), make_call(is_stream=False), retries=0))
    assert isinstance(error, UpstreamError)
    assert error.status == 502


def test_an_endless_line_is_refused() -> None:
    body = b"data: " + b"x" * (33 << 20)
    error, _, _ = run(play(Answer(body, type=EVENTS), make_call()))
    assert (error.status, error.code) == (502, "upstream_malformed")


def test_a_wrong_stream_option_is_the_clients_fault() -> None:
    error, _, provider = run(play(golden("openai.sse"), make_call(stream_options=[1])))
    assert (error.status, error.param) == (400, "stream_options")
    error, _, _ = run(play(golden("openai.sse"), make_call(seed=2**70)))
    assert (error.status, error.param) == (400, "body")
    assert not provider.requests

"""Retries, time-outs and what a refusal becomes."""

import asyncio
import os
from typing import Any
from unittest import mock

import pytest

from farthing.economics.usage import Usage
from farthing.upstreams import Tally, UpstreamError
from farthing.upstreams.http_errors import retry_after_s
from farthing.upstreams.openai import from_config
from tests.upstreams.provider import Answer, Provider, as_json, collect, golden, make_call, run, said

SAID = {"error": {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "too_long"}}
GOOD = golden("openai.sse")


async def play(*answers: Answer, is_stream: bool = True, **table: Any) -> tuple[Any, Tally, int]:
    """(chunks or the error, tally, number of requests)."""
    tally = Tally()
    async with Provider(*answers) as provider:
        up = from_config("up", {"base_url": provider.url, "backoff_s": 0.001} | table)
        try:
            result: Any = await collect(up, make_call(is_stream=is_stream), tally)
        except UpstreamError as error:
            result = error
        await up.aclose()
        return result, tally, len(provider.requests)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, None])
def test_is_sent_again(status: int | None) -> None:
    chunks, tally, count = run(play(Answer(status=status), Answer(status=status), GOOD))
    assert (count, tally.usage_source) == (3, "provider")
    assert said(chunks)["texts"][0].startswith("A penny")
    error, tally, count = run(play(Answer(status=status)))
    assert (count, error.is_retryable) == (3, True)
    _, _, count = run(play(Answer(status=status), retries=0))
    assert count == 1


@pytest.mark.parametrize(
    ("status", "theirs", "code", "is_retryable"),
    [
        (400, 400, "too_long", False),
        (413, 413, "too_long", False),
        (422, 422, "too_long", False),
        (401, 502, "upstream_auth", True),
        (403, 502, "upstream_auth", True),
        (402, 502, "upstream_payment", True),
        (404, 404, "too_long", True),
        (405, 502, "upstream_refused", False),
        (302, 502, "upstream_refused", False),
        (501, 502, "upstream_failed", True),
    ],
)
def test_is_not_sent_again(status: int, theirs: int, code: str, is_retryable: bool) -> None:
    error, tally, count = run(play(as_json(SAID, status, location="http://127.0.0.1:1/")))
    assert count == 1
    assert (error.status, error.code, error.is_retryable) == (theirs, code, is_retryable)
    assert error.body == (SAID if status in (400, 413, 422) else None)
    assert (tally.usage, tally.usage_source) == (Usage(), "provider")


def test_retry_after_is_honoured() -> None:
    error, _, count = run(play(as_json(SAID, 429, retry_after="120")))
    assert (count, error.status, error.retry_after_s) == (1, 429, 120.0)
    chunks, _, count = run(play(as_json(SAID, 429, retry_after="0.01"), GOOD))
    assert count == 2
    assert chunks
    quota = {"error": {"message": "pay", "type": "insufficient_quota", "code": "insufficient_quota"}}
    error, _, count = run(play(as_json(quota, 429)))
    assert (count, error.code) == (1, "insufficient_quota")
    _, _, count = run(play(as_json(SAID, 500, x_should_retry="false")))
    assert count == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "2", "retry-after-ms": "150"}, 0.15),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers) == seconds


def test_nobody_listens() -> None:
    async def knock() -> UpstreamError:
        async with Provider(GOOD) as provider:
            url = provider.url
        up = from_config("up", {"base_url": url, "backoff_s": 0.001})
        with pytest.raises(UpstreamError) as caught:
            await collect(up, make_call(), tally)
        await up.aclose()
        return caught.value

    tally = Tally()
    error = run(knock())
    assert (error.status, error.code, error.is_retryable) == (502, "upstream_unreachable", True)
    assert tally.usage == Usage()
    assert "127.0.0.1" not in str(error)


@pytest.mark.parametrize("is_stream", [True, False])
def test_time_outs_are_not_sent_again(is_stream: bool) -> None:
    error, tally, count = run(play(Answer(wait_s=5), is_stream=is_stream, timeout_s=0.1))
    assert (error.status, error.code, error.is_retryable, count) == (504, "upstream_timeout", True, 1)
    assert (tally.usage_source, tally.usage.input_tokens) == ("estimated", 9)


def test_a_stuck_stream_times_out_between_chunks() -> None:
    head = GOOD.body[:1200]
    error, tally, _ = run(play(Answer(head, is_stuck=True), chunk_timeout_s=0.1))
    assert (error.status, error.is_retryable, tally.usage_source) == (504, False, "estimated")
    error, _, _ = run(play(Answer(b": wait\n\n", is_stuck=True), first_byte_timeout_s=0.1, chunk_timeout_s=0.1))
    assert (error.status, error.is_retryable) == (504, True)


def test_the_whole_is_bounded() -> None:
    trickle = Answer(b": still here\n\n" * 100_000, piece_bytes=16)
    error, _, _ = run(play(trickle, timeout_s=0.2))
    assert (error.status, error.code) == (504, "upstream_timeout")


def test_the_key_shows_nowhere() -> None:
    told = {"error": {"message": "bad key sk-very-secret", "code": "sk-very-secret"}}
    with mock.patch.dict(os.environ, {"UP_KEY": "sk-very-secret"}):
        for status in (400, 401, 404, 429, 500):
            error, tally, _ = run(play(as_json(told, status), api_key_env="UP_KEY", retries=0))
            assert "secret" not in f"{error} {error.code} {error.body} {tally}"
        inside = Answer(b'data: {"error":{"message":"bad key sk-very-secret","code":400}}\n\n')
        error, _, _ = run(play(inside, api_key_env="UP_KEY"))
        assert (error.status, "secret" in f"{error} {error.body}") == (400, False)
        up = from_config("up", {"api_key_env": "UP_KEY"})
    assert "secret" not in repr(vars(up)["_hosted"])


def test_cookies_are_not_kept() -> None:
    async def twice() -> list[dict[str, str]]:
        answer = Answer(GOOD.body, headers={"set-cookie": "who=me; Path=/"})
        async with Provider(answer) as provider:
            up = from_config("up", {"base_url": provider.url})
            for _ in range(2):
                await collect(up, make_call(), Tally())
            await up.aclose()
            return [headers for _, headers, _ in provider.requests]

    assert all("cookie" not in headers for headers in run(twice()))


def test_many_at_once() -> None:
    async def crowd() -> list[Tally]:
        tallies = [Tally() for _ in range(200)]
        async with Provider(Answer(GOOD.body, wait_s=0.2)) as provider:
            up = from_config("up", {"base_url": provider.url})
            await asyncio.gather(*(collect(up, make_call(), tally) for tally in tallies))
            await up.aclose()
        return tallies

    assert {tally.usage_source for tally in run(crowd())} == {"provider"}

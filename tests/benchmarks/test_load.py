"""benchmarks/load: schedules, percentiles, the reader of answers, the mock provider and what its stamps tell."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gateway import CELLS
from benchmarks.load.client import Answer, Client, drive, events
from benchmarks.load.figures import compare, times
from benchmarks.load.http1 import Response, request_bytes
from benchmarks.load.mock import ANSWER_BYTES, NUM_CHUNKS, Mock
from benchmarks.load.schedule import Spread, added, arrivals, percentile
from benchmarks.load.wave import chat_request, heard

HEADERS = b"HTTP/1.1 200 OK\r\nX-Request-Id: r1\r\n"
PLAIN = HEADERS + b"content-length: 5\r\n\r\nhello"
CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile(sorted(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-9
    assert sum(value < found for value in values) < percent / 100 * len(values)


def test_percentiles_of_a_hundred_and_what_a_gateway_adds() -> None:
    direct, through = Spread.of(range(1, 101)), Spread.of(range(3, 103))
    assert (direct.num, direct.p50, direct.p95, direct.p99, direct.max) == (100, 50, 95, 99, 100)
    assert added(through, direct) == {"p50": 2, "p95": 2, "p99": 2, "max": 2}
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize("kind", ["poisson", "fixed"])
def test_arrivals_are_as_many_as_the_rate_says_and_the_same_for_a_seed(kind) -> None:
    found = arrivals(kind, 200, 30, seed=1)
    assert len(found) == 6000
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= 30
    assert found == arrivals(kind, 200, 30, seed=1)


def test_poisson_gaps_vary_and_fixed_ones_do_not() -> None:
    def gaps(kind) -> list[float]:
        times_s = arrivals(kind, 100, 100, seed=1)
        return [after - before for before, after in pairwise(times_s)]

    assert max(gaps("fixed")) == pytest.approx(0.01)
    short = sum(gap < 0.01 for gap in gaps("poisson")) / 9999
    assert short == pytest.approx(0.632, abs=0.03)  # 1 - 1/e of exponential gaps are shorter than their mean


@given(st.sampled_from([PLAIN, CHUNKED]), st.lists(st.integers(0, 100), max_size=8))
def test_an_answer_is_read_alike_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    response, body, edges = Response(), b"", sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    for first, last in pairwise(edges):
        assert not response.is_complete
        body += response.feed(data[first:last])
    assert (response.is_complete, response.status, body) == (True, 200, b"hello")
    assert response.headers["x-request-id"] == "r1"


def test_what_is_no_http_is_an_error() -> None:
    with pytest.raises(ValueError, match="no HTTP"):
        Response().feed(b"SSH-2.0 hello there\r\n\r\n")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_request_body_has_the_bytes_that_its_row_states(cell) -> None:
    head, _, body = cell.request("now/gpt-4o-mini", "/v1/chat/completions", "key").partition(b"\r\n\r\n")
    assert len(body) == cell.body_bytes
    assert f"content-length: {cell.body_bytes}".encode() in head
    assert json.loads(body).get("stream", False) == cell.is_stream


def asked(requests: list[bytes], within_s: float | None = None) -> list[Answer]:
    """Answers of a mock in this process."""

    async def go() -> list[Answer]:
        loop, everyone = asyncio.get_running_loop(), set()
        server = await loop.create_server(lambda: Mock(everyone, {"requests": 0}), "127.0.0.1", 0)
        client = Client(server.sockets[0].getsockname()[1])
        if within_s is not None:
            answers = [await client.ask(request, within_s=within_s) for request in requests]
        else:
            answers = await drive(client, lambda number: requests[number], [0.0] * len(requests))
        client.close()
        await asyncio.sleep(0.05)
        assert not everyone, "a connection was left open"
        server.close()
        return answers

    return asyncio.run(go())


def request_to(mode: str, **body) -> bytes:
    return request_bytes("POST", f"/{mode}/v1/chat/completions", {}, json.dumps(body).encode())


def test_the_mocks_whole_answer_has_a_kilobyte_and_its_times() -> None:
    [answer] = asked([request_to("now", model="x", pad="y" * 300_000)])
    assert answer.is_read
    assert len(answer.body) == ANSWER_BYTES
    assert json.loads(answer.body)["usage"]["completion_tokens"] == 32
    found = times(answer)
    assert 0 < found.outside_ms <= found.end_ms == found.first_ms


@pytest.mark.parametrize("is_usage_asked", [True, False])
def test_the_mocks_stream_has_its_chunks_and_usage_only_when_asked(is_usage_asked: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if is_usage_asked else {}
    answers = asked([request_to("now", stream=True, **more)] * 3)
    for answer in answers:
        found = [event for _, event in events(answer)]
        assert answer.is_read
        assert sum(bool(event["choices"]) for event in found) == NUM_CHUNKS
        assert sum("usage" in event for event in found) == is_usage_asked
        assert 0 < times(answer).first_ms <= times(answer).end_ms
    both = [times(answer) for answer in answers]
    assert compare(both, both)["added"]["end_ms"] == {"p50": 0, "p95": 0, "p99": 0, "max": 0}


def test_an_idle_stream_has_a_beginning_and_is_not_read() -> None:
    [answer] = asked([request_to("idle", stream=True)], within_s=0.2)
    assert (answer.status, answer.end_s, answer.is_read) == (200, None, False)
    assert len(list(events(answer))) == 1
    with pytest.raises(ValueError, match="not read to its end"):
        times(answer)


def test_a_failed_answer_is_not_read() -> None:
    [answer] = asked([request_to("dead")])
    assert (answer.status, answer.is_read) == (500, False)


def test_what_a_client_hears_of_a_stream() -> None:
    request = chat_request([{"role": "user", "content": "Hi."}], 64, model="m")
    assert json.loads(request.partition(b"\r\n\r\n")[2])["ignore_eos"] is True
    [answer] = asked([request.replace(b"POST /v1", b"POST /paced-2/v1")])
    found = heard(answer, answer.sent_s)
    assert (found.input_tokens, found.output_tokens) == (24, 32)
    assert found.text.startswith("some word1 word2")
    assert 0 < found.first_s < found.end_s
    assert found.decode_tok_s == pytest.approx(31 / (found.end_s - found.first_s))

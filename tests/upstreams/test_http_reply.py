"""What is read from a connection that does not do as it should, and from one that does."""

import asyncio
import gzip
import socket
from typing import Any

import pytest

from farthing.upstreams import UpstreamError
from farthing.upstreams.http import Http
from tests.upstreams.provider import Answer, Provider, as_json, run
from tests.upstreams.raw_server import HEAD, http, raw_server, read_request

CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


async def pieces(client: Http) -> tuple[bytes, int, str]:
    """(all bytes, in how many pieces, the error's code if one came)."""
    came: list[bytes] = []
    try:
        reply = await client.post("/x", b"{}", {}, is_stream=True)
        try:
            while (piece := await reply.piece()) is not None:
                came.append(piece)
        finally:
            await reply.close()
    except UpstreamError as error:
        return b"".join(came), len(came), error.code
    finally:
        await client.aclose()
    return b"".join(came), len(came), ""


async def played(data: bytes, **how: Any) -> tuple[bytes, int, str]:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(data)
        await writer.drain()

    async with raw_server(play) as port:
        return await asyncio.wait_for(pieces(http(port, **how)), 5)


@pytest.mark.parametrize(
    ("data", "body", "code"),
    [
        (HEAD + b"content-length: 5\r\n\r\nhello", b"hello", ""),
        (HEAD + b"content-length: 0\r\n\r\n", b"", ""),
        (HEAD + b"\r\nuntil it closes", b"until it closes", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nok", b"ok", ""),
        (HEAD + b"content-length: 50\r\n\r\nhello", b"hello", "upstream_broke_off"),
        (CHUNKED + b"5\r\nhello\r\n", b"hello", "upstream_broke_off"),
        (CHUNKED + b"5\r\nhello\r\nzz\r\n", b"", "upstream_broke_off"),  # together with the head: no answer at all
        (HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(b"hello", mtime=0), b"hello", ""),
        (HEAD + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\nhello", b"", "upstream_broke_off"),
        (b"", b"", "upstream_broke_off"),
        (b"HTTP/1.1 200", b"", "upstream_broke_off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", "upstream_broke_off"),
        (HEAD + b"x: " + b"y" * 40_000 + b"\r\n\r\n", b"", "upstream_broke_off"),
        (HEAD + b"x: y\r\n" * 400 + b"\r\n", b"", "upstream_broke_off"),
        (HEAD + b"x: " + b"y" * 20_000 + b"\r\ncontent-length: 2\r\n\r\nok", b"ok", ""),
    ],
)
def test_what_came_is_read_and_the_break_is_told(data: bytes, body: bytes, code: str) -> None:
    came, _, told = run(played(data))
    assert (came, told) == (body, code)


def test_what_came_together_is_one_piece() -> None:
    came, count, code = run(
        played(CHUNKED + b"".join(b"%x\r\n%b\r\n" % (4, b"abc\n") for _ in range(30)) + b"0\r\n\r\n")
    )
    assert (came, count, code) == (b"abc\n" * 30, 1, "")


def test_a_broken_chunk_on_an_open_connection_is_no_time_out() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED + b"5\r\nhello\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        await reader.read(1)  # until the client closes

    async def ask() -> tuple[bytes, int, str]:
        async with raw_server(play) as port:
            return await asyncio.wait_for(pieces(http(port)), 5)

    assert run(ask()) == (b"hello", 1, "upstream_broke_off")


def test_a_slow_reader_is_no_time_out() -> None:
    async def ask() -> list[bytes | None]:
        async with Provider(Answer(b"abc\n" * 2, piece_bytes=4)) as provider:
            client = http(provider.port, chunk_timeout_s=0.05, first_byte_timeout_s=0.05)
            reply = await client.post("/x", b"{}", {}, is_stream=True)
            came = [await reply.piece()]
            await asyncio.sleep(0.2)
            while came[-1] is not None:
                came.append(await reply.piece())
            await reply.close()
            await client.aclose()
            return came

    assert b"".join(piece for piece in run(ask()) if piece) == b"abc\nabc\n"


@pytest.mark.parametrize("num_bytes", [0, 1, 100_000, 3 << 20])
def test_every_byte_of_a_request_arrives(num_bytes: int) -> None:
    asked: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        writer.write(HEAD + b"content-length: 2\r\n\r\n{}")

    async def ask() -> object:
        async with raw_server(play) as port:
            client = http(port)
            reply = await client.post("/x", b"x" * num_bytes, {"traceparent": "00"}, is_stream=False)
            answer = await reply.json()
            await client.aclose()
            return answer

    assert run(ask()) == {}
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert body == b"x" * num_bytes
    lines = set(head.lower().split(b"\r\n"))
    assert {b"accept-encoding: identity", b"content-type: application/json", b"traceparent: 00"} <= lines


def test_a_long_answer_is_refused() -> None:
    async def ask() -> UpstreamError:
        async with Provider(as_json("x" * 50_000)) as provider:
            client = http(provider.port)
            reply = await client.post("/x", b"{}", {}, is_stream=False)
            with pytest.raises(UpstreamError) as caught:
                await reply.whole(10_000)
            await reply.close()
            await client.aclose()
            return caught.value

    assert run(ask()).code == "upstream_malformed"


def test_an_answer_that_nobody_wants_ends_at_once() -> None:
    async def ask() -> None:
        async with Provider(Answer(b"abc\n", is_stuck=True)) as provider:
            client = http(provider.port)
            reply = await client.post("/x", b"{}", {}, is_stream=True)
            assert await reply.piece() == b"abc\n"
            await reply.close()
            await asyncio.wait_for(provider.closed.wait(), 2)
            await client.aclose()

    run(ask())


@pytest.mark.filterwarnings("error")
def test_a_connection_is_used_again_and_a_closed_one_is_replaced() -> None:
    """Also with no retries left: that the provider closed what lay idle is no failure."""

    async def ask() -> tuple[int, int]:
        good = as_json({"ok": True})
        async with Provider(good, good, Answer(status=None), good) as provider:
            client = http(provider.port)
            for _ in range(3):
                reply = await client.post("/x", b"{}", {}, is_stream=False)
                assert await reply.json() == {"ok": True}
            await client.aclose()
            return len(provider.requests), provider.num_connections

    assert run(ask()) == (4, 2)


@pytest.mark.filterwarnings("error")
def test_another_loop_gets_connections_of_its_own() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(HEAD + b"content-length: 2\r\n\r\n{}")

    async def ask(client: Http, *, is_last: bool) -> object:
        async with raw_server(play, port=port) as _:
            reply = await client.post("/x", b"{}", {}, is_stream=False)
            answer = await reply.json()
            if is_last:
                await client.aclose()
            return answer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = http(port)
    assert [run(ask(client, is_last=at == 1)) for at in range(2)] == [{}, {}]

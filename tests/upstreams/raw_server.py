"""A server on a loopback port that plays raw bytes: what no well-kept provider would say."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from farthing.upstreams.http import Endpoint, Http

__all__ = ["HEAD", "http", "raw_server", "read_request"]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Head and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0]) if lengths else 0)


@asynccontextmanager
async def raw_server(play: Play, context: ssl.SSLContext | None = None, port: int = 0) -> Any:
    """Gives the port. Each connection is played once, then closed."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await play(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http(port: int, **how: Any) -> Http:
    return Http("up", Endpoint(f"http://127.0.0.1:{port}/v1", **{"retries": 0, "timeout_s": 10.0, **how}))

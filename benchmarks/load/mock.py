"""A mock provider: an OpenAI-compatible endpoint that does nothing, as fast as Python can, in a process of its own.

    python -m benchmarks.load.mock [--port N]

Prints its port. The first part of the path says how it answers: /v1/… at once; /paced-5/v1/… with 5 ms before each
chunk, or before a whole answer; /idle/v1/… one chunk, then nothing until the client goes; /dead/v1/… status 500.
A whole answer has 1,024 bytes, a stream 32 chunks of text, each written by itself, then the usage if it was asked for.
Each answer says when its request had come and when this piece of it was written, as system_fingerprint
"fp_RECEIVED_WRITTEN" in nanoseconds of time.perf_counter_ns: what passed outside the mock is the rest.
GET /stats tells how many connections and streams are open, and how many requests came.
"""

import argparse
import asyncio
import json
import re
import time
from typing import Any

__all__ = ["ANSWER_BYTES", "NUM_CHUNKS", "Mock", "main"]

NUM_CHUNKS = 32
ANSWER_BYTES = 1024
MODEL = "gpt-4o-mini"  # a name with a price
OUTPUT_TOKENS = 32
STAMP = b"fp_%020d_%020d"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
IS_STREAM = re.compile(rb'"stream": ?true')
IS_USAGE = re.compile(rb'"include_usage": ?true')
Json = dict[str, Any]


def _template(document: Json) -> bytes:
    """With a place for the stamp; a stamp always has the same length."""
    text = json.dumps({**document, "system_fingerprint": "@"}, separators=(",", ":"))
    return text.replace("%", "%%").replace('"@"', f'"{STAMP.decode()}"').encode()


def _usage(input_tokens: int) -> Json:
    total = input_tokens + OUTPUT_TOKENS
    return {"prompt_tokens": input_tokens, "completion_tokens": OUTPUT_TOKENS, "total_tokens": total}


def _whole() -> bytes:
    message = {"role": "assistant", "content": ""}
    document = {"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": MODEL, "usage": _usage(24)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    short = len(_template({**document, "choices": [choice]}) % (0, 0))
    message["content"] = ("a word " * ANSWER_BYTES)[: ANSWER_BYTES - short]
    return _template({**document, "choices": [choice]})


def _chunk(choices: list[Json], **more: Any) -> bytes:
    document = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return b"data: " + _template({**document, "choices": choices, **more}) + b"\n\n"


def _stream() -> list[bytes]:
    chunks = []
    for number in range(NUM_CHUNKS):
        delta = {"role": "assistant", "content": "some"} if number == 0 else {"content": f" word{number}"}
        reason = "stop" if number == NUM_CHUNKS - 1 else None
        chunks.append(_chunk([{"index": 0, "delta": delta, "finish_reason": reason}]))
    return chunks


WHOLE, CHUNKS, USAGE = _whole(), _stream(), _chunk([], usage=_usage(24))


class Mock(asyncio.Protocol):
    """One connection. `all` are those that are open."""

    def __init__(self, all_open: "set[Mock]", counts: dict[str, int]) -> None:
        self._all, self._counts = all_open, counts
        self._buffer = bytearray()
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._all.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._all.discard(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        found = LENGTH.search(self._buffer, 0, head_end)
        end = head_end + 4 + (int(found.group(1)) if found else 0)
        if len(self._buffer) < end:
            return
        received_ns = time.perf_counter_ns()
        path = self._buffer.split(b" ", 2)[1].decode("latin-1")
        body = bytes(self._buffer[head_end + 4 : end])
        del self._buffer[:end]
        self._answer(path, body, received_ns)

    def _answer(self, path: str, body: bytes, received_ns: int) -> None:
        if path == "/stats":
            streams = sum(mock.is_busy for mock in self._all)
            self._write_json({"connections": len(self._all), "streams": streams, **self._counts})
            return
        mode, _, value = path.split("/")[1].partition("-")
        gap_s = int(value or 0) / 1000
        if path.endswith("/models"):
            self._write_json({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
            return
        self._counts["requests"] += 1
        if mode == "dead":
            self._transport.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\n{}")
        elif IS_STREAM.search(body):
            num = 1 if mode == "idle" else NUM_CHUNKS
            self._task = asyncio.ensure_future(self._stream(received_ns, num, gap_s, bool(IS_USAGE.search(body))))
        elif gap_s:
            self._task = asyncio.ensure_future(self._later(received_ns, gap_s))
        else:
            self._write_whole(received_ns)

    async def _later(self, received_ns: int, gap_s: float) -> None:
        await asyncio.sleep(gap_s)
        self._write_whole(received_ns)

    async def _stream(self, received_ns: int, num_chunks: int, gap_s: float, is_usage_asked: bool) -> None:
        self._transport.write(STREAM_HEAD)
        for chunk in CHUNKS[:num_chunks]:
            await asyncio.sleep(gap_s)  # 0 lets the loop write, so that each chunk is a packet of its own
            self._write_event(chunk % (received_ns, time.perf_counter_ns()))
        if num_chunks < NUM_CHUNKS:
            await asyncio.get_running_loop().create_future()
        if is_usage_asked:
            self._write_event(USAGE % (received_ns, time.perf_counter_ns()))
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _write_event(self, event: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))

    def _write_whole(self, received_ns: int) -> None:
        body = WHOLE % (received_ns, time.perf_counter_ns())
        self._transport.write(HEAD % (len(body), body))

    def _write_json(self, document: Json) -> None:
        body = json.dumps(document).encode()
        self._transport.write(HEAD % (len(body), body))


async def serve(port: int) -> None:
    all_open: set[Mock] = set()
    counts = {"requests": 0}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Mock(all_open, counts), "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    import uvloop

    uvloop.run(serve(port))


if __name__ == "__main__":
    main()

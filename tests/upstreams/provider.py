"""A provider on a loopback port that plays given answers, and helpers to read what an upstream made of them."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from farthing.upstreams import Call, Chunk, Tally, Upstream

WIRE = Path(__file__).parents[1] / "golden" / "wire"
EVENTS, JSON = "text/event-stream; charset=utf-8", "application/json"
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """status None: the connection is closed before a byte of an answer. is_broken: it is closed in the middle of the
    body; is_stuck: it stays open there, and nothing more comes."""

    body: bytes = b""
    status: int | None = 200
    type: str = EVENTS
    headers: dict[str, str] = field(default_factory=dict)
    piece_bytes: int = 1 << 20
    wait_s: float = 0.0  # before the first byte
    is_broken: bool = False
    is_stuck: bool = False


def golden(name: str, **how: Any) -> Answer:
    type_ = EVENTS if name.endswith(".sse") else JSON
    return Answer((WIRE / name).read_bytes(), type=type_, **how)


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(orjson.dumps(value), status, JSON, {key.replace("_", "-"): text for key, text in headers.items()})


class Provider:
    """Plays its answers in order, the last one again and again. `async with` gives it its port."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []  # path, headers, body
        self.num_connections = 0
        self.closed = asyncio.Event()  # a client closed its connection during an answer
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "Provider":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.requests.append((head[0].split()[1], headers, orjson.loads(body) if body else {}))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.status is None:
            return False
        await asyncio.sleep(answer.wait_s)
        lines = {"content-type": answer.type, "transfer-encoding": "chunked"} | answer.headers
        writer.write(f"HTTP/1.1 {answer.status} X\r\n".encode())
        writer.write("".join(f"{key}: {value}\r\n" for key, value in lines.items()).encode() + b"\r\n")
        for start in range(0, len(answer.body), answer.piece_bytes):
            piece = answer.body[start : start + answer.piece_bytes]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if len(answer.body) > answer.piece_bytes:
                await asyncio.sleep(0)
        await writer.drain()
        if answer.is_stuck:
            await reader.read(1)
            self.closed.set()
        if answer.is_broken or answer.is_stuck:
            return False
        writer.write(b"0\r\n\r\n")
        return True


def make_call(wire: str = "chat", is_stream: bool = True, **body: Any) -> Call:
    if wire == "completions":
        default: dict[str, Any] = {"prompt": "Say hello"}
    else:
        default = {"messages": [{"role": "user", "content": "Say hello"}]}
    if wire == "messages":
        default["max_tokens"] = 100
    return Call("call-1", wire, default | body, "model-x", is_stream=is_stream)  # type: ignore[arg-type]


async def collect(upstream: Upstream, call: Call, tally: Tally) -> list[Chunk]:
    return [chunk async for chunk in upstream.stream(call, tally)]


def said(chunks: list[Chunk]) -> dict[str, Any]:
    """What the pieces say together, choice by choice."""
    tools: dict[int, list[str]] = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls):
        tool = tools.setdefault(delta.index, ["", "", ""])
        for at, part in enumerate((delta.id, delta.name, delta.arguments)):
            tool[at] += part
    indices = sorted({chunk.index for chunk in chunks})
    return {
        "texts": ["".join(chunk.text for chunk in chunks if chunk.index == index) for index in indices],
        "reasoning": "".join(chunk.reasoning for chunk in chunks),
        "finishes": [[c.finish_reason for c in chunks if c.index == i and c.finish_reason] for i in indices],
        "tools": tools,
        "logprobs": [entry for index in indices for c in chunks if c.index == index for entry in c.logprobs],
    }


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 20))

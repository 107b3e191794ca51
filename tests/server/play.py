"""An upstream that does what the last message says, kind = "tests.server.play": the server's own part can be tested
without a model. `say a b c` answers word by word; see stream for the rest."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from farthing.economics.usage import Usage
from farthing.upstreams import Call, Chunk, Tally, TokenLogprob, ToolDelta, UpstreamError

__all__ = ["Play", "from_config"]


class Play:
    def __init__(self, name: str, models: list[str]) -> None:
        self.name = name
        self._models = models
        self.calls: list[Call] = []
        self.num_running = 0
        self.num_pieces = 0
        self.go_on = asyncio.Event()  # what "wait" waits for

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        self.calls.append(call)
        tally.upstream, tally.provider, tally.model = self.name, "openai", "gpt-5-nano"
        word, *rest = _said(call).split()
        self.num_running += 1
        num = 0
        try:
            if word == "refuse":
                raise _error(int(rest[0]), rest[1] if len(rest) > 1 else "refused")
            if word == "bug":
                raise ValueError("a secret prompt")
            if word == "hang":
                await asyncio.Event().wait()
            if word == "whole":
                tally.whole = {"id": "theirs", "choices": [], "their_field": 1, "model": "m", "usage": {"x": 1}}
            async for chunk in _pieces(word, rest, self.go_on):
                num += 1
                self.num_pieces += 1
                yield chunk
            if word == "break":
                raise _error(502, "upstream_broke")
        finally:
            self.num_running -= 1
            tally.usage, tally.usage_source = Usage(100, 0, num), "provider"

    def max_usage(self, call: Call) -> Usage:  # noqa: ARG002
        return Usage(100, 0, 100)

    async def models(self) -> list[str]:
        return self._models

    async def aclose(self) -> None:
        pass


async def _pieces(word: str, rest: list[str], go_on: asyncio.Event) -> AsyncIterator[Chunk]:
    if word == "raw":
        for i, piece in enumerate(rest):
            delta: dict[str, Any] = {"content": piece}
            yield Chunk(piece, raw={"id": "theirs", "model": "m", "x": i, "choices": [{"index": 0, "delta": delta}]})
        yield Chunk(raw={"id": "theirs", "model": "m", "choices": [], "usage": {"prompt_tokens": 100, "theirs": 7}})
        return
    if word == "tool":
        yield Chunk(tool_calls=(ToolDelta(0, "call_1", "look", ""),))
        yield Chunk(tool_calls=(ToolDelta(0, arguments='{"a":'),))
        yield Chunk(tool_calls=(ToolDelta(0, arguments="1}"),), finish_reason="tool_calls")
        return
    if word == "logprobs":
        top = (("é", "é".encode(), -0.5), ("x", b"x", -1.0))
        yield Chunk("", logprobs=(TokenLogprob("\ufffd", b"\xc3", -0.5, top),))
        yield Chunk("éb", logprobs=(TokenLogprob("\ufffd", b"\xa9", -0.25), TokenLogprob("b", b"b", float("-inf"))))
        yield Chunk(finish_reason="stop")
        return
    if word == "two":
        yield Chunk("a", 0)
        yield Chunk("b", 1)
        yield Chunk("", 1, "stop")
        yield Chunk("c", 0, "length")
        return
    for piece in rest:
        if piece == "wait":
            await go_on.wait()
        elif piece == "forever":
            while True:
                yield Chunk("x")
                await asyncio.sleep(0.002)
        elif piece.startswith("sleep"):
            await asyncio.sleep(float(piece[5:]))
        else:
            yield Chunk(piece)
    if word != "break":
        yield Chunk(finish_reason="stop")


def _error(status: int, code: str) -> UpstreamError:
    return UpstreamError(f"refused with {status}", status=status, code=code, retry_after_s=2.5)


def _said(call: Call) -> str:
    if call.wire == "completions":
        return str(call.body["prompt"])
    content = call.body["messages"][-1]["content"]
    return content if isinstance(content, str) and content.split() else "say nothing"


def from_config(name: str, options: Mapping[str, Any]) -> Play:
    return Play(name, options.get("models", ["play"]))

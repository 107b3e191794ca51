"""Keeps prompts and answers for training a router, where the configuration says so: around everything else.

Only what ended well, has text on both sides and fits; tool calls and several choices are left out. It never delays or
fails an answer: what cannot be written is dropped.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from farthing.economics.usage import Usage
from farthing.ledger.traffic import Traffic
from farthing.router.label import call_text
from farthing.server.messages import CountsTokens
from farthing.upstreams import Call, Chunk, Tally, Upstream

__all__ = ["KeepingUpstream"]


class Keeper(Protocol):
    """The books, as far as they are needed here (ledger.Books)."""

    def keep_traffic(self, traffic: Traffic, max_rows: int) -> None: ...


class KeepingUpstream:
    def __init__(self, upstream: Upstream, books: Keeper, max_chars: int, max_rows: int) -> None:
        self.name = upstream.name
        self._upstream, self._books = upstream, books
        self._max_chars, self._max_rows = max_chars, max_rows
        if isinstance(upstream, CountsTokens):
            self.count_tokens = upstream.count_tokens

    def max_usage(self, call: Call) -> Usage:
        return self._upstream.max_usage(call)

    async def models(self) -> list[str]:
        return await self._upstream.models()

    async def aclose(self) -> None:
        await self._upstream.aclose()

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        prompt = call_text(call.body)
        texts: list[str] = []
        num_left = self._max_chars if 0 < len(prompt) <= self._max_chars else -1  # -1: it is not kept
        pieces = self._upstream.stream(call, tally)
        try:
            async for chunk in pieces:
                if num_left >= 0:
                    num_left -= len(chunk.text) if not chunk.tool_calls and chunk.index == 0 else num_left + 1
                    texts.append(chunk.text)
                yield chunk
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        answer = "".join(texts)
        if num_left >= 0 and answer:
            self._books.keep_traffic(Traffic(call.id, prompt, tally.model or call.model, answer), self._max_rows)

"""Keeps prompts and answers for training a router, where the configuration says so: around everything else.

Only what ended well, has text on both sides and fits; tool calls and several choices are left out. It never delays or
fails an answer: what cannot be written is dropped.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

from farthing.ledger.traffic import Traffic
from farthing.router.label import call_text
from farthing.server.wrapping import Wrapping
from farthing.upstreams import Call, Chunk, Tally, Upstream

__all__ = ["KeepingUpstream"]


class Keeper(Protocol):
    """The books, as far as they are needed here (ledger.Books)."""

    def keep_traffic(self, traffic: Traffic, max_rows: int) -> None: ...


class KeepingUpstream(Wrapping):
    def __init__(self, upstream: Upstream, books: Keeper, max_chars: int, max_rows: int) -> None:
        super().__init__(upstream)
        self._books = books
        self._max_chars, self._max_rows = max_chars, max_rows

    async def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        prompt = call_text(call.body)
        texts: list[str] = []
        num_left, is_kept = self._max_chars, 0 < len(prompt) <= self._max_chars
        pieces = self._upstream.stream(call, tally)
        try:
            async for chunk in pieces:
                if is_kept:
                    num_left -= len(chunk.text)
                    is_kept = num_left >= 0 and not chunk.tool_calls and chunk.index == 0
                    texts.append(chunk.text)
                yield chunk
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()
        answer = "".join(texts)
        if is_kept and answer:
            self._books.keep_traffic(Traffic(call.id, prompt, tally.model or call.model, answer), self._max_rows)

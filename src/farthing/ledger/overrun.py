"""Ends a hosted stream that goes on beyond its reservation.

A call without a limit of its own is reserved at an assumed one, but goes out without: no number suits every model. Its
tokens are not known before its end (few providers report them on the way), only its bytes. So the bound is one that no
honest answer reaches below its reservation, and what a provider bills may be several times what was reserved.
"""

from collections.abc import Sequence

from farthing.ledger.reservation import Hold
from farthing.upstreams.call import Chunk, Tally

__all__ = ["Overrun"]

MAX_BYTES_PER_TOKEN = 16  # no answer has more in the mean; single tokens may
FREE_TOKENS = 8  # so that a few long tokens are within the bound of a very small reservation


class Overrun:
    def __init__(self, hold: Hold) -> None:
        self._most_tokens = hold.max_output_tokens
        self._most_bytes = MAX_BYTES_PER_TOKEN * (hold.max_output_tokens + FREE_TOKENS)
        self._num_bytes = 0
        self._unfinished: dict[int, None] = {}  # choices in the order in which they came

    def ends(self, chunk: Chunk, tally: Tally) -> Sequence[Chunk]:
        """The last chunk of every choice that has none, where with this one the answer is beyond its reservation."""
        self._num_bytes += _num_bytes(chunk)
        if chunk.finish_reason is not None:
            self._unfinished.pop(chunk.index, None)
        elif chunk.text or chunk.reasoning or chunk.tool_calls:
            self._unfinished[chunk.index] = None
        is_reported = tally.usage_source == "provider" and tally.usage.output_tokens > self._most_tokens
        if not is_reported and self._num_bytes <= self._most_bytes:
            return ()
        return [Chunk(index=index, finish_reason="length") for index in self._unfinished]


def _num_bytes(chunk: Chunk) -> int:
    pieces = (chunk.text, chunk.reasoning, *(delta.arguments for delta in chunk.tool_calls))
    return sum(len(text) if text.isascii() else len(text.encode("utf-8", "replace")) for text in pieces)

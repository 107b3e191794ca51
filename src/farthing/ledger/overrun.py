"""Ends a hosted stream that goes on beyond the limit that its provider was sent.

An honest provider ends it there itself, so this is for one that does not know the limit, or ignores it. Tokens are not
known before the end (few providers report them on the way), only text. It is counted so that no honest answer is
ended: a token has one word at most, since tokenizers divide text at white space first, and no more than 16 bytes in the
mean of an answer. English has some 1.3 tokens to a word, so such a stream ends after about 1.3 times its limit; text
without white space after more. Reasoning that is not shown cannot be counted.
"""

from collections.abc import Sequence

from farthing.ledger.reservation import Hold
from farthing.upstreams.call import Chunk, Tally

__all__ = ["Overrun"]

MAX_BYTES_PER_TOKEN = 16  # no answer has more in the mean; single tokens may
FREE_TOKENS = 8  # so that a few long tokens are within the bound of a very small limit


class Overrun:
    def __init__(self, hold: Hold) -> None:
        self._most_tokens = hold.max_output_tokens
        self._num_bytes = self._num_words = 0
        self._in_word: set[int] = set()  # choices whose text so far ends within a word
        self._unfinished: dict[int, None] = {}  # choices in the order in which they came

    def ends(self, chunk: Chunk, tally: Tally) -> Sequence[Chunk]:
        """The last chunk of every choice that has none, where with this one the answer is beyond its limit."""
        self._count(chunk)
        if chunk.finish_reason is not None:
            self._unfinished.pop(chunk.index, None)
        elif chunk.text or chunk.reasoning or chunk.tool_calls:
            self._unfinished[chunk.index] = None
        is_reported = tally.usage_source == "provider" and tally.usage.output_tokens > self._most_tokens
        least_tokens = max(self._num_words, self._num_bytes // MAX_BYTES_PER_TOKEN) - FREE_TOKENS
        if not is_reported and least_tokens <= self._most_tokens:
            return ()
        return [Chunk(index=index, finish_reason="length") for index in self._unfinished]

    def _count(self, chunk: Chunk) -> None:
        for text in (chunk.text, chunk.reasoning, *(delta.arguments for delta in chunk.tool_calls)):
            if not text:
                continue
            self._num_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            is_continued = chunk.index in self._in_word and not text[0].isspace()
            self._num_words += len(text.split()) - is_continued
            (self._in_word.discard if text[-1].isspace() else self._in_word.add)(chunk.index)

"""From what the engine said to the chunks of an answer."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from farthing.upstreams.call import Chunk, TokenLogprob
from farthing.upstreams.job import Piece
from farthing.upstreams.local_prompt import Prepared

if TYPE_CHECKING:
    from farthing.models.tokenizer import Tokenizer
    from farthing.request import Token

__all__ = ["Answer"]


class Answer:
    """All choices of one call. `shown` are control tokens that are part of the text."""

    def __init__(self, prepared: Prepared) -> None:
        self.shown: Mapping[int, str] = {}
        self.is_at_length = False  # whether a choice ended at its length
        self._tokenizer = prepared.tokenizer

    def chunks(self, piece: Piece) -> Iterator[Chunk]:
        self.is_at_length |= piece.finish_reason == "length"
        logprobs = tuple(_logprob(self._tokenizer, token) for token in piece.tokens)
        if piece.text or logprobs or piece.finish_reason:
            yield Chunk(piece.text, piece.index, piece.finish_reason, logprobs=logprobs)


def _logprob(tokenizer: "Tokenizer", token: "Token") -> TokenLogprob:
    assert token.logprob is not None
    top = tuple((*_spelled(tokenizer, id), logprob) for id, logprob in token.top_logprobs)
    return TokenLogprob(*_spelled(tokenizer, token.token_id), token.logprob, top)


def _spelled(tokenizer: "Tokenizer", id: int) -> tuple[str, bytes]:
    data = tokenizer.token_bytes(id)
    return data.decode("utf-8", "replace"), data

"""From what the engine said to the chunks of an answer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from farthing.upstreams.call import Chunk, TokenLogprob, ToolDelta
from farthing.upstreams.errors import UpstreamError
from farthing.upstreams.job import Piece
from farthing.upstreams.local_prompt import Prepared
from farthing.upstreams.tool_text import ToolText, tool_text

if TYPE_CHECKING:
    from farthing.models.tokenizer import Tokenizer
    from farthing.request import Token

__all__ = ["Answer"]


class Answer:
    """All choices of one call. `shown` are control tokens that are part of the text."""

    def __init__(self, prepared: Prepared) -> None:
        self.is_at_length = False  # whether a choice ended at its length
        self._tokenizer = prepared.encoded.tokenizer
        self._constraints = prepared.constraints
        tools = prepared.encoded.tools
        self.shown: Mapping[int, str] = {} if tools is None else tools.shown
        self._readers: list[ToolText] = []  # of each choice, where tools are offered
        if tools is not None:
            is_parallel = prepared.encoded.asked.is_parallel
            self._readers = [tool_text(tools, is_parallel=is_parallel) for _ in prepared.requests]

    def chunk(self, piece: Piece) -> Chunk | None:
        """None where there is nothing to say yet. Raises UpstreamError where a grammar's limits ended the answer."""
        text, index, reason = piece.text, piece.index, piece.finish_reason
        self.is_at_length |= reason == "length"
        if reason is not None and self._constraints and (error := self._constraints[index].error):
            what = " ".join(error.split())[:300]
            raise UpstreamError(
                f"the answer's form became too costly to hold: {what}", status=400, code="form_too_complex"
            )
        calls: tuple[ToolDelta, ...] = ()
        if self._readers:
            text, calls, reason = self._read(self._readers[index], text, reason)
        logprobs = tuple(_logprob(self._tokenizer, token) for token in piece.tokens)
        if not (text or calls or logprobs or reason):
            return None
        return Chunk(text, index, reason, calls, logprobs, hidden=piece.hidden)

    def _read(self, reader: ToolText, text: str, reason: str | None) -> tuple[str, tuple[ToolDelta, ...], str | None]:
        text, calls = reader.push(text)
        if reason is not None:
            more, others = reader.end(is_cut=reason == "length")
            text, calls = text + more, calls + others
            if reader.num_calls and reason == "stop":
                reason = "tool_calls"
        return text, calls, reason


def _logprob(tokenizer: "Tokenizer", token: "Token") -> TokenLogprob:
    assert token.logprob is not None
    top = tuple((*_spelled(tokenizer, id), logprob) for id, logprob in token.top_logprobs)
    return TokenLogprob(*_spelled(tokenizer, token.token_id), token.logprob, top)


def _spelled(tokenizer: "Tokenizer", id: int) -> tuple[str, bytes]:
    data = tokenizer.token_bytes(id)
    return data.decode("utf-8", "replace"), data

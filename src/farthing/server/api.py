"""What one API is to the server: how its requests are read, how answers and errors are written. One file per API.

    bytes of the client -> Api.parse -> Asked -> Call -> upstream -> Chunk … -> Renderer -> bytes for the client

A Renderer serves one answer. Streamed: start, chunk for each piece, then end (after the ledger has committed the row,
so nothing of it may leave before) or failed. In one piece: whole, from the pieces collected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from farthing.upstreams import Chunk, Receipt, Tally, UpstreamError, Wire

__all__ = ["Api", "Asked", "Ending", "Endpoint", "Renderer"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its API reads it. `body` is of the form that `wire` names (an API that no upstream speaks, such as
    responses, is turned into one that they do); `model` is the name the client gave."""

    wire: Wire
    body: dict[str, Any]
    model: str
    is_stream: bool
    is_body_changed: bool = False  # whether body differs from what came, so that the bytes cannot be handed on


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known when an answer has ended: its attempts as the ledger has them, and the last attempt's tally."""

    receipts: Sequence[Receipt]
    tally: Tally


class Renderer(Protocol):
    def start(self, tally: Tally) -> bytes:
        """What a stream begins with, sent together with the first chunk."""
        ...

    def chunk(self, chunk: Chunk) -> bytes:
        """The events for one piece, or b"" where there is nothing to say yet."""
        ...

    def end(self, ending: Ending) -> bytes:
        """The last events, usage and cost in them where this API has a place and the client asked for it."""
        ...

    def failed(self, error: UpstreamError) -> bytes:
        """The event of an answer that broke off."""
        ...

    def whole(self, chunks: Sequence[Chunk], ending: Ending) -> dict[str, Any]:
        """The answer in one piece. Where ending.tally.whole is there (same wire), it is that, unknown fields and all,
        with the model's name, usage and cost as ours."""
        ...


class Endpoint(Protocol):
    """What every path that takes a body is known by, and how it says what is wrong."""

    endpoint: str  # its word in the ledger and in metrics: chat, completions, responses, messages

    def error_body(self, error: UpstreamError, request_id: str) -> dict[str, Any]:
        """An error in the shape that this API's clients expect."""
        ...


class Api(Endpoint, Protocol):
    path: str  # "/v1/chat/completions"

    def parse(self, body: dict[str, Any]) -> Asked:
        """Raises UpstreamError (status 400) for what this API does not allow."""
        ...

    def renderer(self, asked: Asked, answer_id: str, created_s: int) -> Renderer: ...

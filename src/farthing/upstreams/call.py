"""What is asked of an upstream (Call), what comes back (Chunk), and what it used (Tally, Receipt).

    server                     wraps: fallback, ledger.Metered          leaf: local, openai, anthropic, echo
    Call, Tally  ------------------------------------------------------>  stream(call, tally)
    Chunk, Chunk, …  <--------------------------------------------------  tally kept current all the while

An answer that ends early (the client went away: aclose, cancellation) has no last event to carry its usage. So usage is
not an event: the leaf keeps `tally` current, and in its `finally` makes it final, whatever ended it.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from farthing.economics.usage import Usage

__all__ = ["Allowance", "Call", "Chunk", "Receipt", "Tally", "TokenLogprob", "ToolDelta", "Upstream", "Wire"]

Wire = Literal["chat", "completions", "messages"]  # OpenAI chat completions and completions, Anthropic messages
UsageSource = Literal["provider", "engine", "estimated", "unavailable"]


class Allowance(Protocol):
    """What a call may still use of somebody's budget. Told and asked by the engine's thread: after every step first
    all calls are charged, then each is asked, since one may have used what another counts on."""

    def charge(self, usage: Usage) -> None:
        """usage: all that the call has used by now."""
        ...

    def covers(self) -> bool:
        """Whether the call may be in another step; False ends it with finish_reason "length"."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """One attempt as the ledger has it: what the server tells its client. Money in pico-dollars; None is not known."""

    upstream: str
    model: str  # that served
    usage: Usage
    usage_source: UsageSource
    cost_pico: int | None
    baseline_pico: int | None
    status: str
    cache: str | None = None  # hit, where the response cache answered
    error: str | None = None  # a short code


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asked. `body` is its JSON as it came, of the form that `wire` names; nobody changes it in place.

    Set by the server, from its configuration and the caller's key, never from the body: model (what the upstream is to
    serve), salt and num_public_messages (who shares cached prefixes, see request.Request), max_output_tokens and
    allowance (what a budget leaves). A router asks a local model for its hidden state. Metered appends one receipt per
    attempt.
    """

    id: str
    wire: Wire
    body: Mapping[str, Any]
    model: str
    is_stream: bool = False
    salt: str = ""
    num_public_messages: int = 0
    max_output_tokens: int | None = None  # over all n choices together; an upstream asks for no more
    allowance: Allowance | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # lower case, the client's, to be handed on
    raw: bytes | None = None  # the bytes that body was read from, where nothing was changed since
    endpoint: str = ""  # the API the client used: chat, completions, responses, messages
    asked_model: str = ""  # the name the client gave
    key_id: str | None = None  # who, as the ledger knows it
    project: str | None = None
    tags: tuple[str, ...] = ()
    route: str | None = None  # why this upstream, for the row: "fallback: upstream_unreachable"
    wants_hidden: bool = False
    receipts: list[Receipt] = field(default_factory=list, compare=False)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    token: str
    data: bytes  # the token's own bytes, also where they are no whole character
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()  # likeliest first


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A piece of a tool call: id and name come with the first one of each index, arguments are JSON text in pieces."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the answer, as it arrived. finish_reason (OpenAI's words: stop, length, tool_calls, content_filter)
    comes with the last piece of a choice. raw is the provider's own JSON where it speaks the call's wire: a chunk
    (chat, completions) or an event (messages), unknown fields and all; the other fields say the same.
    """

    text: str = ""
    index: int = 0  # of the choice
    finish_reason: str | None = None
    tool_calls: tuple[ToolDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    reasoning: str = ""
    raw: dict[str, Any] | None = None
    hidden: tuple[float, ...] = ()  # with a choice's last piece, where wanted: request.Done.hidden


@dataclass(slots=True)
class Tally:
    """What one attempt has used so far; final when the stream has ended, in whatever way."""

    usage: Usage = field(default_factory=Usage)
    usage_source: UsageSource = "unavailable"
    upstream: str = ""  # the name it has in the configuration
    provider: str = ""  # as price lists name it: "local", "openai", "anthropic", …
    model: str = ""  # that served, as the provider reports it
    is_local: bool = False  # priced by seconds of this machine, not by tokens
    whole: dict[str, Any] | None = None  # an answer that came in one piece: the provider's own JSON, of the call's wire
    headers: dict[str, str] = field(default_factory=dict)  # of the provider, to hand on (retry-after, request ids)
    queue_s: float = 0.0  # before the first step
    is_cut: bool = False  # ended at its reservation: a budget, not the model, ended it
    route: str | None = None  # why this upstream: a kind and details, "fallback: upstream_unreachable"
    is_discarded: bool = False  # answered, and somebody else's answer is given: what it cost is no saving


class Upstream(Protocol):
    """Answers calls. `name` is its name in the configuration."""

    name: str

    def stream(self, call: Call, tally: Tally) -> AsyncIterator[Chunk]:
        """The pieces of the answer. Closing the iterator early stops the work at once. Raises UpstreamError (before the
        first chunk: nothing was answered; later: the answer broke off)."""
        ...

    def max_usage(self, call: Call) -> Usage:
        """An upper bound for what the call can use (input as counted or estimated, output at most), for reservations.

        Raises UpstreamError for a call that it would refuse.
        """
        ...

    async def models(self) -> list[str]:
        """The models it serves, as far as it knows."""
        ...

    async def aclose(self) -> None: ...

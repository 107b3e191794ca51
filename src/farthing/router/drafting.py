"""How a cascade asks its first model: with log-probabilities that its client did not ask for, and short samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from farthing.upstreams.call import Call, Chunk, TokenLogprob, ToolDelta
from farthing.upstreams.convert import as_chat

__all__ = ["Draft", "draft_call", "sample_call", "shown"]

NUM_TOP = 2  # for the margin between the two likeliest
SAMPLE_TEMPERATURE = 0.7
NOT_SAMPLED = ("seed", "stream", "stream_options", "max_completion_tokens", "logprobs", "top_logprobs", "n")


@dataclass(slots=True)
class Draft:
    """An answer that is held back."""

    chunks: list[Chunk] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for chunk in self.chunks for entry in chunk.logprobs]

    @property
    def hidden(self) -> tuple[float, ...]:
        """Empty where the model did not tell."""
        return next((chunk.hidden for chunk in self.chunks if chunk.hidden), ())

    @property
    def tool_calls(self) -> list[ToolDelta]:
        return [delta for chunk in self.chunks for delta in chunk.tool_calls]


def draft_call(call: Call, *, is_local: bool) -> Call:
    """As chat with log-probabilities where the model is local: every wire is one there, and they cost next to nothing.
    Raises UpstreamError (400) for what chat cannot say."""
    if not is_local or call.wire == "completions":
        return call
    chat = as_chat(call) if call.wire == "messages" else call
    num_top = chat.body.get("top_logprobs")
    if num_top is not None and (not isinstance(num_top, int) or chat.body.get("logprobs") is not True):
        return chat  # the model will say what is wrong with it
    body = {**chat.body, "logprobs": True, "top_logprobs": max(NUM_TOP, num_top or 0)}
    return replace(chat, body=body, raw=None)


def sample_call(call: Call, num_samples: int, max_tokens: int) -> Call:
    """Several short answers, drawn by chance. They share the prompt, which is computed once."""
    chat = as_chat(call) if call.wire == "messages" else call
    body = {name: value for name, value in chat.body.items() if name not in NOT_SAMPLED}
    asked = body.get("temperature")
    warm = asked if isinstance(asked, int | float) and asked > SAMPLE_TEMPERATURE else SAMPLE_TEMPERATURE
    body |= {"n": num_samples, "max_tokens": max_tokens, "temperature": warm}
    return replace(chat, body=body, raw=None, is_stream=False)


def shown(chunks: Sequence[Chunk], call: Call, *, is_local: bool) -> list[Chunk]:
    """The pieces as the client asked for them: no more log-probabilities than that."""
    if not is_local or call.wire == "completions":
        return list(chunks)
    is_asked = call.wire == "chat" and call.body.get("logprobs") is True
    num_top = call.body.get("top_logprobs") or 0
    found = []
    for chunk in chunks:
        logprobs = tuple(replace(entry, top=entry.top[:num_top]) for entry in chunk.logprobs) if is_asked else ()
        piece = replace(chunk, logprobs=logprobs)
        if piece.text or piece.tool_calls or piece.reasoning or piece.logprobs or piece.finish_reason:
            found.append(piece)
    return found

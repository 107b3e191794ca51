"""A request on its way: its tokens, how far they are computed, and its text."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from farthing.cache import Lease, UnderWay
from farthing.economics.usage import Usage
from farthing.engine.prompt import Prompt
from farthing.engine.speculative import Drafting
from farthing.request import Constraint, Done, FinishReason, SamplingParams

__all__ = ["Sequence", "TextStream"]


class Detokenizer(Protocol):
    def push(self, id: int, /) -> str: ...
    def flush(self) -> str: ...


class TextStream:
    """Text as it becomes certain: characters that could begin a stop string are held back until they do not.

    The stop string that is complete first ends the text, the one that began first if several are; what follows is lost.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.is_stopped = False
        self._stop = stop
        self._longest = max(map(len, stop), default=0)
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that is certain after this piece."""
        if not self._stop or not piece:
            return piece
        if self.is_stopped:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)[1]]
        num_held = next((n for n in range(min(self._longest - 1, len(text)), 0, -1) if self._may_begin(text[-n:])), 0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]

    def flush(self) -> str:
        """What was held back: no stop string will come of it."""
        held, self._held = self._held, ""
        return held

    def _may_begin(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stop)


class Sequence:
    """num_computed_tokens has to catch up with num_tokens; whatever the tokens are, that is the engine's only rule.

    In a step that catches up, drafts may follow: token_ids[num_tokens : num_tokens + num_draft_tokens].
    """

    __slots__ = (
        "constraint",
        "detokenizer",
        "drafting",
        "finish_reason",
        "id",
        "input_ns",
        "is_answering",
        "is_pin",
        "lease",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_draft_tokens",
        "num_input_tokens",
        "num_prompt_tokens",
        "num_scheduled_tokens",
        "num_tokens",
        "output_ns",
        "params",
        "prompt",
        "seed",
        "stream",
        "text",
        "token_ids",
        "under_way",
        "wants_logprobs",
    )

    def __init__(
        self,
        id: int,
        prompt: Prompt,
        max_len: int,  # prompt and output together, at most
        params: SamplingParams,
        seed: int,
        detokenizer: Detokenizer,
        drafting: Drafting | None = None,
        is_pin: bool = False,
        constraint: Constraint | None = None,
    ) -> None:
        self.id = id
        self.is_pin = is_pin  # whether it ends with its prompt, whose pages then stay
        self.params = params
        self.prompt = prompt
        self.seed = seed
        self.token_ids: npt.NDArray[np.int32] = np.zeros(max_len, np.int32)  # [max_len], the first num_tokens are there
        self.num_prompt_tokens = self.num_tokens = len(prompt.token_ids)
        self.token_ids[: self.num_tokens] = prompt.token_ids
        self.num_computed_tokens = 0
        self.num_input_tokens = 0  # of the prompt, as far as it was ever computed or found
        self.num_scheduled_tokens = 0  # those of the next step, drafts included
        self.num_draft_tokens = 0  # of the next step
        self.num_cached_tokens: int | None = None  # of the prompt, when first scheduled
        self.is_answering = False  # whether this step's tokens come after the first output token
        self.lease: Lease | None = None  # held while running
        self.under_way: UnderWay | None = None  # what it waits for
        self.finish_reason: FinishReason | None = None
        self.detokenizer = detokenizer
        self.drafting = drafting  # None without speculation
        self.constraint = constraint
        self.wants_logprobs = params.logprobs is not None
        self.stream = TextStream(params.stop) if params.stop else None
        self.text: list[str] = []
        self.input_ns = 0
        self.output_ns = 0

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_pending_tokens(self) -> int:
        return self.num_tokens - self.num_computed_tokens

    def advance(self, num_tokens: int) -> None:
        """num_tokens more are computed."""
        self.num_computed_tokens += num_tokens
        if self.num_input_tokens < self.num_prompt_tokens:
            reached = min(self.num_computed_tokens, self.num_prompt_tokens)
            self.num_input_tokens = max(self.num_input_tokens, reached)

    def append(self, token_id: int) -> str:
        """Take an output token; the text that became certain. Sets finish_reason at a stop string, where a constraint
        is complete, or at full length."""
        self.token_ids[self.num_tokens] = token_id
        self.num_tokens += 1
        is_complete = False
        if self.constraint is not None:
            self.constraint.take(token_id)
            is_complete = self.constraint.is_done
        text = self.detokenizer.push(token_id)
        if self.stream is not None:
            text = self.stream.push(text)
        if self.stream is not None and self.stream.is_stopped:
            self.finish_reason = "stop"
        elif is_complete or self.num_tokens == len(self.token_ids):
            text += self.finish_text()
            self.finish_reason = "stop" if is_complete or self._is_stopped else "length"
        if text:
            self.text.append(text)
        return text

    def end(self) -> str:
        """Take the end-of-sequence token, which is no part of the answer; the text that was held back."""
        self.finish_reason = "stop"
        text = self.finish_text()
        self.text.append(text)
        return text

    def finish_text(self) -> str:
        text = self.detokenizer.flush()
        return text if self.stream is None else self.stream.push(text) + self.stream.flush()

    @property
    def _is_stopped(self) -> bool:
        return self.stream is not None and self.stream.is_stopped

    def usage(self) -> Usage:
        """So far: of a prompt that is not computed to its end, the tokens that are."""
        return Usage(
            input_tokens=self.num_input_tokens,
            cache_read_tokens=self.num_cached_tokens or 0,
            output_tokens=self.num_output_tokens,
            input_s=self.input_ns * 1e-9,
            output_s=self.output_ns * 1e-9,
        )

    def done(self) -> Done:
        assert self.finish_reason is not None
        token_ids = tuple(self.token_ids[self.num_prompt_tokens : self.num_tokens].tolist())
        return Done(self.id, self.finish_reason, self.usage(), "".join(self.text), token_ids)

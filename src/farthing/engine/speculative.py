"""Speculation: guess several next tokens, let one step check all of them, keep those that were right.

A draft is right when it is the very token that the model chooses there; logits do not depend on what else is in the
step (law 1), so the answer is the same with and without, sampled ones too. What is left is to guess well (Drafter) and
to guess only as far as it pays (Acceptance, lengths). Guesses from the text so far cost nothing; a draft model is asked
where it promises more for its time (draft_model.py). No clock is read: the same requests give the same drafts.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Acceptance",
    "Asked",
    "Drafter",
    "Drafting",
    "JointDrafter",
    "PromptLookup",
    "TokenIds",
    "lengths",
    "step_cost",
]

TokenIds = npt.NDArray[np.int32]


class Drafter(Protocol):
    """Guesses how one sequence goes on from its text; every sequence has one of its own, which may keep what it
    learns."""

    def propose(self, token_ids: TokenIds, max_tokens: int) -> TokenIds:
        """At most max_tokens ids of the model's vocabulary that may follow token_ids [n], prompt and output; or none.

        From call to call token_ids only grows: what is new was chosen by the model, and what was proposed before and
        is not there was refused. Some steps go without a call. The array passed in is a view that must not be kept.
        """
        ...


class Asked(NamedTuple):
    """One sequence's question to a joint drafter."""

    id: int
    token_ids: TokenIds  # [n], prompt and output; a view that must not be kept
    max_tokens: int  # 1 or more


class JointDrafter(Protocol):
    """Guesses for all sequences of an engine at once, and keeps something for each of them."""

    @property
    def seconds(self) -> float: ...  # spent in `propose`, since it was made

    def cost(self, num_sequences: int) -> float:
        """Time that a further draft of one of so many takes to guess, beside a step of one token of the model."""
        ...

    def propose(self, asked: Items[Asked]) -> list[TokenIds]:
        """Of each at most max_tokens ids of the model's vocabulary that may follow; perhaps none. From call to call a
        sequence's token_ids only grow, as a Drafter's do; what was proposed and is not there was refused, so what is
        computed is good as far as the two have a beginning in common."""
        ...

    def forget(self, id: int) -> None:
        """A sequence has ended, or was never asked about."""
        ...


class PromptLookup:
    """Proposes what followed the last occurrence of the last few tokens, the more of them the better.

    Source: prompt lookup decoding, Saxena 2023. One dict lookup and one insertion per n-gram length and token, whatever
    the sequence's length. A match that reaches the end goes on in circles, as a text that repeats itself does.
    """

    NGRAM_LENGTHS = (8, 4, 2, 1)  # longest first

    def __init__(self, least: int = 1) -> None:
        """least: tokens that must have come before, at least."""
        self._lengths = tuple(length for length in self.NGRAM_LENGTHS if length >= least)
        self._followers: dict[bytes, int] = {}  # n-gram, as the bytes of its int32 -> position behind it, the last time
        self._num_indexed = 1  # tokens that stand in the index as followers of what is before them

    def propose(self, token_ids: TokenIds, max_tokens: int) -> TokenIds:
        n = len(token_ids)
        self._index(token_ids)
        for length in self._lengths:
            if n > length and (at := self._followers.get(token_ids[n - length :].tobytes())) is not None:
                return np.resize(token_ids[at:], max_tokens)  # [max_tokens], repeated where it is shorter
        return token_ids[:0]

    def _index(self, token_ids: TokenIds) -> None:
        """Note every n-gram that ends before the last token: those have a follower."""
        start = max(self._num_indexed - self.NGRAM_LENGTHS[0], 0)
        tail = token_ids[start:].tobytes()
        for at in range(self._num_indexed, len(token_ids)):
            end = 4 * (at - start)
            for length in self._lengths:
                if length <= at:
                    self._followers[tail[end - 4 * length : end]] = at
        self._num_indexed = max(self._num_indexed, len(token_ids))


def step_cost(num_tokens: int) -> float:
    """Time of a step beside a step of one token.

    Up to four tokens a step waits for the weights to come from memory, beyond it multiplies. Measured: SmolLM2-135M in
    4 bits on 2 cores (Zen 3, AVX2): 5.4 ms for 1 token, 6.6 for 4, 20 for 16: 0.07 and 0.21 for a further one. Both are
    rounded up, to 0.15 and 0.3: where memory is quicker or cores are shared, further tokens weigh more, and a draft too
    few costs less than one too many. Bytes and products grow with the model alike, so the shape is that of others too.
    """
    return 1 + 0.15 * (min(num_tokens, 4) - 1) + 0.3 * max(num_tokens - 4, 0)


def lengths(
    chances: Items[Items[float]], num_answering: int, num_tokens: int, max_tokens: int, cost: float = 0.0
) -> list[int]:
    """How many of each sequence's drafts to compute, so that a step gives the most tokens for its time.

    chances[i][k]: how likely drafts 0 … k of sequence i are all right, which falls with k. The step has num_tokens
    tokens already, of which num_answering are the one that each answering sequence needs; at most max_tokens are added.
    cost: what guessing one takes, beside what computing it does; 0 where they are guessed already.
    Takes the likeliest draft as long as it improves tokens per time (a sum of tokens that flattens over a cost that
    steepens has one peak). Prompts in the step make further tokens dearer, but their own time is not in the balance.
    """
    taken = [0] * len(chances)
    tokens, time = float(num_answering), step_cost(num_answering)
    order = sorted(((chance, i) for i, row in enumerate(chances) for chance in row), key=lambda pair: -pair[0])
    for chance, i in order[:max_tokens]:
        extra = step_cost(num_tokens + 1) - step_cost(num_tokens) + cost
        if chance * time <= extra * tokens:
            break
        taken[i] += 1
        num_tokens += 1
        tokens += chance
        time += extra
    return taken


def pace(chances: Items[float], num_answering: int, num_tokens: int, cost: float = 0.0) -> float:
    """Tokens per time of a step with these drafts of one sequence; arguments as of `lengths`."""
    extra = step_cost(num_tokens + len(chances)) - step_cost(num_tokens) + cost * len(chances)
    return (num_answering + sum(chances)) / (step_cost(num_answering) + extra)


class Acceptance:
    """How often the drafts of one source have been right lately, in one sequence, and so how many are worth it.

    Drafts are as likely to be right as those before them, the latest counting most: so they get longer while they are
    accepted and shorter when they are refused. Where not even one pays, there are none for a while, then one as a
    probe; each probe in vain doubles the pause, and one that is right begins afresh.
    """

    MEMORY = 0.92  # weight of what was known, beside one more draft: about twelve drafts are remembered
    AT_FIRST = (2.0, 1.0)  # drafts known, of which right: as if one of two had been
    LONGEST_PAUSE = 64  # steps

    def __init__(self) -> None:
        self._is_probe = False
        self._pause = self._num_to_wait = 0  # steps
        self._num_known, self._num_right = self.AT_FIRST

    def chances(self, max_tokens: int, num_answering: int, num_tokens: int, cost: float = 0.0) -> list[float]:
        """Of as many drafts as would pay if no other sequence had any, how likely each is right with all before it.

        num_answering, num_tokens and cost are as in `lengths`.
        """
        chance = self._num_right / self._num_known
        chances = [chance**k for k in range(1, max_tokens + 1)]
        (length,) = lengths([chances], num_answering, num_tokens, max_tokens, cost)
        self._is_probe = length == 0
        if self._is_probe:
            if self._num_to_wait:
                self._num_to_wait -= 1
                return []
            num_known, num_right = self.AT_FIRST
            chances = [num_right / num_known]
            (length,) = lengths([chances], num_answering, num_tokens, max_tokens, cost)
        return chances[:length]

    def learn(self, num_drafts: int, num_accepted: int) -> None:
        """Of the drafts asked for last num_drafts were computed; the first num_accepted were right, the next not."""
        for is_right in [True] * num_accepted + [False] * (num_accepted < num_drafts):
            self._num_right = self.MEMORY * self._num_right + is_right
            self._num_known = self.MEMORY * self._num_known + 1
        if self._is_probe and num_accepted:
            self._pause = 0
            self._num_known, self._num_right = self.AT_FIRST
        elif self._is_probe:
            self._pause = min(max(2 * self._pause, 1), self.LONGEST_PAUSE)
            self._num_to_wait = self._pause


class Drafting:
    """One sequence's sources of drafts, its own drafter and a joint one, either of which may be missing; and which of
    them promises more."""

    def __init__(self, drafter: Drafter | None, *, is_joint: bool = False) -> None:
        self._drafter = drafter
        self._own, self._joint = Acceptance(), Acceptance() if is_joint else None
        self._last = self._own

    def propose(
        self, token_ids: TokenIds, max_tokens: int, num_answering: int, num_tokens: int
    ) -> tuple[TokenIds, list[float]]:
        """Drafts of its own drafter that would pay, and how likely each is right with all before it.

        num_answering and num_tokens are as in `lengths`.
        """
        self._last = self._own
        if self._drafter is None:
            return token_ids[:0], []
        chances = self._own.chances(max_tokens, num_answering, num_tokens)
        drafts = self._drafter.propose(token_ids, len(chances)) if chances else token_ids[:0]
        assert len(drafts) <= len(chances), f"a drafter gave {len(drafts)} drafts for {len(chances)}"
        return drafts, chances[: len(drafts)]

    def joint(
        self, offered: Items[float], max_tokens: int, num_answering: int, num_tokens: int, cost: float
    ) -> list[float]:
        """Of the drafts that the joint drafter is to be asked for instead of those offered, how likely each is right;
        none where what is offered promises more tokens for the time."""
        if self._joint is None:
            return []
        chances = self._joint.chances(max_tokens, num_answering, num_tokens, cost)
        if chances and pace(chances, num_answering, num_tokens, cost) > pace(offered, num_answering, num_tokens):
            self._last = self._joint
            return chances
        return []

    def learn(self, num_drafts: int, num_accepted: int) -> None:
        """Of the drafts proposed last num_drafts were computed, the first num_accepted were right, the next was not."""
        if num_drafts:
            self._last.learn(num_drafts, num_accepted)

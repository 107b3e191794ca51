"""A small model that guesses how a large one goes on: a JointDrafter with keys and values of its own.

Each place ahead is one run of the small model for all sequences that want a draft there. It guesses greedily, whatever
the sampling is: what it guesses wrong is refused. Its vocabulary may be a part of the large one's (`draft_ids.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from farthing.engine.draft_ids import DraftIds
from farthing.engine.speculative import Asked, TokenIds, step_cost
from farthing.kernels import Program
from farthing.kernels.plan import Batch, KVSpec

__all__ = ["DraftModel"]

I32 = npt.NDArray[np.int32]


@dataclass
class _Held:
    """What is computed of one sequence, in pages of its own."""

    tokens: I32  # [max_len] the large model's ids, of which the first num_computed are in the pages
    pages: I32  # [max pages], of which the first num_pages are its own
    num_computed: int = 0
    num_pages: int = 0
    num_known: int = 0  # of the tokens that the sequence had when it last asked


@dataclass
class _Guess:
    """One question on its way: the tokens that are to be run next, and what came out so far."""

    held: _Held
    pending: I32
    max_tokens: int
    found: list[int] = field(default_factory=list)


class DraftModel:
    """run: `kernels.run`. cost_of_one: time of running the small model for one token, beside the large one.

    most_tokens: of prompts that are computed in one call; of longer ones a part, and nothing is guessed until it is
    there. max_len: tokens of a sequence at most; a longer one gets no guesses.
    """

    def __init__(
        self,
        run: Callable[[Program, Batch], npt.NDArray[np.float32]],
        program: Program,
        kv: KVSpec,
        ids: DraftIds,
        *,
        max_len: int,
        cost_of_one: float,
        most_tokens: int = 256,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.program, self.kv = program, kv
        self._run_program, self._ids = run, ids
        self._max_len, self._cost_of_one, self._most_tokens = max_len, cost_of_one, most_tokens
        self._clock_ns, self._spent_ns = clock_ns, 0
        self._held: dict[int, _Held] = {}
        self._free = list(range(kv.num_pages - 1, -1, -1))
        self._counting = np.arange(max_len + 1, dtype=np.int32)

    @property
    def seconds(self) -> float:
        return self._spent_ns * 1e-9

    def cost(self, num_sequences: int) -> float:
        """A run's time grows with its sequences as a step's does, and is shared by them."""
        return self._cost_of_one * step_cost(num_sequences) / max(num_sequences, 1)

    def forget(self, id: int) -> None:
        held = self._held.pop(id, None)
        if held is not None:
            self._free += held.pages[: held.num_pages].tolist()

    def propose(self, asked: Sequence[Asked]) -> list[TokenIds]:
        started_ns = self._clock_ns()
        guesses = self._begin(asked)
        running = [guess for guess in guesses if guess is not None]
        while running:
            chosen = self._run(running)
            running = [guess for guess, id in zip(running, chosen, strict=True) if self._take(guess, int(id))]
        self._spent_ns += self._clock_ns() - started_ns
        return [np.array([] if guess is None else guess.found, np.int32) for guess in guesses]

    def _begin(self, asked: Sequence[Asked]) -> list[_Guess | None]:
        """A guess for each question that can have one; parts of prompts too long for one call are computed here."""
        room = self._most_tokens
        guesses: list[_Guess | None] = []
        for id, token_ids, max_tokens in asked:
            held = self._held_of(id, token_ids)
            max_tokens = min(max_tokens, self._max_len - len(token_ids))
            end = min(len(token_ids), held.num_computed + room) if max_tokens > 0 else 0
            num_pending = end - held.num_computed
            if num_pending <= 0 or not self._grow(held, end + (max_tokens - 1 if end == len(token_ids) else 0)):
                guesses.append(None)
                continue
            room -= num_pending
            guess = _Guess(held, token_ids[held.num_computed : end].copy(), max_tokens)
            if end < len(token_ids):
                self._run([guess])
            guesses.append(guess if end == len(token_ids) else None)
        return guesses

    def _held_of(self, id: int, token_ids: TokenIds) -> _Held:
        """What is computed of a sequence, cut to what it has in common with token_ids."""
        held = self._held.get(id)
        if held is None:
            num_pages = -(-self._max_len // self.kv.page_size)
            held = self._held[id] = _Held(np.zeros(self._max_len, np.int32), np.zeros(num_pages, np.int32))
        # What it had before is still there; guesses that were run after it may have been refused. The last token is
        # always run anew, for what comes after it is wanted.
        first, last = min(held.num_known, held.num_computed), min(held.num_computed, len(token_ids) - 1)
        differs = np.flatnonzero(held.tokens[first:last] != token_ids[first:last])
        held.num_computed = min(last, first + int(differs[0]) if len(differs) else last)
        held.num_known = len(token_ids)
        return held

    def _grow(self, held: _Held, num_tokens: int) -> bool:
        """Pages for so many tokens. False where there are too few: then nothing has changed."""
        num_missing = -(-num_tokens // self.kv.page_size) - held.num_pages
        if num_missing > len(self._free):
            return False
        for _ in range(num_missing):
            held.pages[held.num_pages] = self._free.pop()
            held.num_pages += 1
        return True

    def _run(self, guesses: list[_Guess]) -> I32:
        """Compute the pending tokens of each; what comes after the last one, in the small model's ids [guesses]."""
        starts = np.cumsum([0, *(len(guess.pending) for guess in guesses)], dtype=np.int32)
        positions = np.empty(starts[-1], np.int32)
        width = max(guess.held.num_pages for guess in guesses)
        tables = np.zeros((len(guesses), width), np.int32)
        for at, guess in enumerate(guesses):
            held, first = guess.held, guess.held.num_computed
            last = first + len(guess.pending)
            positions[starts[at] : starts[at + 1]] = self._counting[first:last]
            held.tokens[first:last] = guess.pending
            tables[at, : held.num_pages] = held.pages[: held.num_pages]
        tokens = guesses[0].pending if len(guesses) == 1 else np.concatenate([guess.pending for guess in guesses])
        batch = Batch(self._ids.to_draft[tokens], positions, starts, tables, starts[1:] - np.int32(1))
        chosen: I32 = self._run_program(self.program, batch).argmax(axis=1)  # of logits [guesses, V]
        for guess in guesses:  # not before: a run that was interrupted can be taken again
            guess.held.num_computed += len(guess.pending)
        return chosen

    def _take(self, guess: _Guess, draft_id: int) -> bool:
        """Add a guess; whether another one is wanted after it."""
        token_id = int(self._ids.to_model[draft_id])
        if token_id < 0:  # nothing that the large model has, or the end of the answer, which needs no draft
            return False
        guess.found.append(token_id)
        guess.pending = np.array([token_id], np.int32)
        return len(guess.found) < guess.max_tokens

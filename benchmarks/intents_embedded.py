"""The embedded model as a classifier: which intent's examples make the question likeliest, by log-probability.

For each intent there is one prompt, computed once and kept in pages like any cached prefix:

    Questions about card arrival:
    - I am still waiting on my card?
    - …16 training examples
    -                                      <- the question is scored here: log p(question | intent), some 15 tokens

A question is scored under a few candidate intents in one batch: some 90 tokens, none of them generated. (Scoring the
labels after the ten nearest examples takes three times the tokens and was right as often, 83.6 % of 500 rows.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.intents_data import Split
from farthing import kernels
from farthing.kernels.plan import Batch, KVSpec
from farthing.models import load_model

__all__ = ["Embedded"]

PAGE_SIZE = 16
CHUNK = 128
MOST_QUESTION_TOKENS = 256
SEED = 1

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Prefix:
    ids: Ids
    pages: Ids


@dataclass(frozen=True)
class Piece:
    """Tokens of one sequence that continue at `start`; logits are wanted from `first` on."""

    ids: Ids
    start: int
    pages: Ids
    first: int


class Embedded:
    def __init__(self, name: str, names: Sequence[str], train: Split, num_examples: int, num_threads: int) -> None:
        model = load_model(name)
        self._tokenizer = model.tokenizer
        rng = np.random.default_rng(SEED)
        prompts = [self._prompt(name, train, label, num_examples, rng) for label, name in enumerate(names)]
        counts = [-(-len(ids) // PAGE_SIZE) for ids in prompts]
        self._first_free = sum(counts)
        spare = 16 * (-(-MOST_QUESTION_TOKENS // PAGE_SIZE) + 1)
        c = model.config
        kv = KVSpec(c.num_layers, c.num_kv_heads, c.head_dim, self._first_free + spare, PAGE_SIZE)
        self._program = kernels.load(model.plan("int8"), kv, num_threads=num_threads)
        firsts = np.cumsum([0, *counts])
        self._prefixes = [
            Prefix(ids, np.arange(first, first + count, dtype=np.int32))
            for ids, first, count in zip(prompts, firsts, counts, strict=False)
        ]
        for prefix in self._prefixes:
            for start in range(0, len(prefix.ids), CHUNK):
                ids = prefix.ids[start : start + CHUNK]
                self._run([Piece(ids, start, prefix.pages, len(ids) - 1)])
        self.num_prefix_tokens = sum(map(len, prompts))
        self.num_tokens = 0  # computed for questions since

    def log_likelihoods(self, question: str, candidates: Sequence[int]) -> NDArray[np.float64]:
        """log p(question | intent) for each candidate."""
        ids = self._tokenizer.encode(f" {question.strip()}\n", add_bos=False)[:MOST_QUESTION_TOKENS]
        pieces, free = [], self._first_free
        for label in candidates:
            prefix = self._prefixes[label]
            num_whole = (len(prefix.ids) - 1) // PAGE_SIZE  # whole pages are shared, the rest is computed again
            tail = prefix.ids[num_whole * PAGE_SIZE :]
            own = np.concatenate([tail, ids]).astype(np.int32)
            num_new = -(-len(own) // PAGE_SIZE)
            pages = np.concatenate([prefix.pages[:num_whole], np.arange(free, free + num_new)]).astype(np.int32)
            pieces.append(Piece(own, num_whole * PAGE_SIZE, pages, len(tail) - 1))
            free += num_new
        self.num_tokens += sum(len(piece.ids) for piece in pieces)
        logits = self._run(pieces)
        ends = np.cumsum([len(ids) + 1 for _ in pieces])  # the last row predicts what follows the question
        rows = np.array([np.arange(end - len(ids) - 1, end - 1) for end in ends])
        wanted = logits[rows]  # [candidates, tokens, V]
        chosen = np.take_along_axis(wanted, np.asarray(ids)[None, :, None], axis=2)[..., 0]
        most = wanted.max(axis=2)
        total = most + np.log(np.exp(wanted - most[..., None]).sum(axis=2))
        return np.asarray((chosen - total).sum(axis=1), np.float64)

    def _prompt(self, name: str, train: Split, label: int, num: int, rng: np.random.Generator) -> Ids:
        rows = rng.permutation(np.flatnonzero(train.labels == label))[:num]
        words = name.replace("_", " ").strip("?")
        lines = "".join(f"- {train.texts[row].strip()}\n" for row in rows)
        return np.array(self._tokenizer.encode(f"Questions about {words}:\n{lines}-"), np.int32)

    def _run(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        starts = np.cumsum([0, *(len(piece.ids) for piece in pieces)]).astype(np.int32)
        tables = np.zeros((len(pieces), max(len(piece.pages) for piece in pieces)), np.int32)
        for row, piece in zip(tables, pieces, strict=True):
            row[: len(piece.pages)] = piece.pages
        wanted = [
            np.arange(start + piece.first, start + len(piece.ids)) for start, piece in zip(starts, pieces, strict=False)
        ]
        return kernels.run(
            self._program,
            Batch(
                token_ids=np.concatenate([piece.ids for piece in pieces]),
                positions=np.concatenate(
                    [np.arange(piece.start, piece.start + len(piece.ids)) for piece in pieces]
                ).astype(np.int32),
                seq_starts=starts,
                page_tables=tables,
                logit_rows=np.concatenate(wanted).astype(np.int32),
            ),
        )

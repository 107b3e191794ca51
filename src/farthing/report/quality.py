"""What a lever does to the model's answers: KL divergence, top-1 agreement and perplexity.

KL divergence is KL(reference || other) of the next-token distributions, in nats, the mean over positions; top-1
agreement is the share of positions where both find the same token likeliest. Both are teacher-forced: every position
sees the given text before it, not what either model would have written.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.report.score import Scorer

__all__ = [
    "Divergence",
    "Perplexity",
    "Piece",
    "Sum",
    "divergence",
    "perplexities",
    "perplexity",
    "pieces_without_repeats",
    "windows",
]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Tick = Callable[[int], None]  # called with the number of tokens just done


@dataclass(frozen=True)
class Piece:
    """A sequence whose positions from `first` on are compared."""

    token_ids: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class Divergence:
    kl_divergence: float  # nats, mean over positions
    top1_agreement: float  # 0 to 1
    num_positions: int


@dataclass(frozen=True)
class Perplexity:
    """`perplexity` is over the targets of each window's second half, the other over all but the first token."""

    perplexity: float
    perplexity_all_targets: float
    num_tokens: int
    num_windows: int
    divergence: Divergence | None = None  # over the targets of the second halves


def negative_log_likelihoods(logits: F32, targets: npt.NDArray[np.int64]) -> F64:
    """-ln p(target) of each row [n], from logits [n, V]; exp in float32, summed in float64 (good to about 1e-7)."""
    shifted = logits - logits.max(axis=1, keepdims=True)  # [n, V]
    normalizer: F64 = np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))
    result: F64 = normalizer - shifted[np.arange(len(targets)), targets]
    return result


def kl_divergences(reference: F32, other: F32) -> F64:
    """KL(reference || other) of each row [n], from logits [n, V]; good to about 1e-6."""
    a, b = (logits - logits.max(axis=1, keepdims=True) for logits in (reference, other))
    weights = np.exp(a)
    sum_a, sum_b = weights.sum(axis=1, dtype=np.float64), np.exp(b).sum(axis=1, dtype=np.float64)
    result: F64 = np.einsum("nv,nv->n", weights, a - b) / sum_a - np.log(sum_a) + np.log(sum_b)
    return result


class Sum:
    """Adds up KL divergence and agreement over chunks."""

    def __init__(self) -> None:
        self.kl, self.num_same, self.num_positions = 0.0, 0, 0

    def add(self, reference: F32, other: F32) -> None:
        self.kl += float(kl_divergences(reference, other).sum())
        self.num_same += int((reference.argmax(axis=1) == other.argmax(axis=1)).sum())
        self.num_positions += len(reference)

    def result(self) -> Divergence:
        # Rounding may leave a sum of -1e-16 where the distributions are the same; KL is never negative.
        n = self.num_positions
        return Divergence(max(self.kl, 0.0) / n, self.num_same / n, n)


def divergence(reference: Scorer, other: Scorer, pieces: Sequence[Piece], tick: Tick = lambda _: None) -> Divergence:
    """Compare two models on the same pieces of text. Raises InvalidRequest where there is nothing to compare."""
    total = Sum()
    for piece in pieces:
        both = zip(
            reference.logits(piece.token_ids, piece.first), other.logits(piece.token_ids, piece.first), strict=True
        )
        for (_, ours), (_, theirs) in both:
            total.add(ours, theirs)
            tick(len(ours))
    if not total.num_positions:
        raise InvalidRequest("no text to compare the models on")
    return total.result()


def pieces_without_repeats(sequences: Sequence[tuple[int, ...]], num_positions: int) -> tuple[Piece, ...]:
    """The first sequences, up to `num_positions` compared positions, each without the prefix an earlier one showed."""
    pieces: list[Piece] = []
    for ids in sequences:
        first = max((_common(ids, piece.token_ids) for piece in pieces), default=0)
        length = min(len(ids), first + num_positions)
        if length > first:
            pieces.append(Piece(ids[:length], first))
            num_positions -= length - first
    return tuple(pieces)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


def windows(token_ids: Sequence[int], window: int, num_tokens: int | None = None) -> list[tuple[int, ...]]:
    """Whole windows of the first `num_tokens` tokens; the rest is left out.

    Raises InvalidRequest for a window below 4 and for a text shorter than one window.
    """
    if window < 4:
        raise InvalidRequest(f"window is {window}; allowed: 4 or more tokens")
    ids = tuple(token_ids[:num_tokens])
    if len(ids) < window:
        raise InvalidRequest(f"the text has {len(ids)} tokens, a window {window}: give more text or a smaller --window")
    return [ids[start : start + window] for start in range(0, len(ids) - window + 1, window)]


class _Tally:
    """What one model says of the targets, added up window by window."""

    def __init__(self) -> None:
        self.late, self.early, self.num_late, self.num_early = 0.0, 0.0, 0, 0
        self.divergence = Sum()

    def add(self, targets: npt.NDArray[np.int64], position: int, half: int, logits: F32, theirs: F32 | None) -> None:
        """Logits of the rows from `position` on, and of a reference those from max(position, half) on."""
        rows = logits[: len(targets) - position]  # the last token has no target
        nll = negative_log_likelihoods(rows, targets[position : position + len(rows)])  # [n]
        cut = min(max(half - position, 0), len(rows))
        self.early, self.num_early = self.early + float(nll[:cut].sum()), self.num_early + cut
        self.late, self.num_late = self.late + float(nll[cut:].sum()), self.num_late + len(rows) - cut
        if theirs is not None and cut < len(rows):
            self.divergence.add(theirs[: len(rows) - cut], rows[cut:])

    def result(self, pieces: Sequence[tuple[int, ...]], is_compared: bool) -> Perplexity:
        return Perplexity(
            perplexity=math.exp(self.late / self.num_late),
            perplexity_all_targets=math.exp((self.late + self.early) / (self.num_late + self.num_early)),
            num_tokens=sum(map(len, pieces)),
            num_windows=len(pieces),
            divergence=self.divergence.result() if is_compared else None,
        )


def perplexity(
    scorer: Scorer, pieces: Sequence[tuple[int, ...]], reference: Scorer | None = None, tick: Tick = lambda _: None
) -> Perplexity:
    """exp(mean negative log-likelihood) of windows that know nothing of each other, no BOS added.

    A window of n tokens gives the targets n // 2 + 1 .. n - 1 to `perplexity` (llama-perplexity's convention: each has
    at least half a window before it) and 1 .. n - 1 to `perplexity_all_targets`.
    """
    [found] = perplexities([scorer], pieces, reference, tick)
    return found


def perplexities(
    scorers: Sequence[Scorer],
    pieces: Sequence[tuple[int, ...]],
    reference: Scorer | None = None,
    tick: Tick = lambda _: None,
) -> list[Perplexity]:
    """`perplexity` of several models, side by side, so that the reference runs once."""
    tallies = [_Tally() for _ in scorers]
    for ids in pieces:
        half = len(ids) // 2  # the row at position i predicts the target i + 1
        targets = np.asarray(ids[1:], np.int64)  # [n - 1]
        references = reference.logits(ids, half) if reference is not None else None
        for chunks in zip(*(scorer.logits(ids) for scorer in scorers), strict=True):
            position, logits = chunks[0]
            theirs = None
            if references is not None and half < position + len(logits):
                at, theirs = next(references)
                assert at == max(position, half)
            for tally, (_, ours) in zip(tallies, chunks, strict=True):
                tally.add(targets, position, half, ours, theirs)
            tick(len(logits))
    return [tally.result(pieces, reference is not None) for tally in tallies]

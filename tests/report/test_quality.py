"""KL, agreement and perplexity against sums written out, on made-up logits; then on a real (small) checkpoint."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farthing.errors import CapacityError, InvalidRequest
from farthing.models import load_model
from farthing.report.quality import (
    Piece,
    divergence,
    kl_divergences,
    negative_log_likelihoods,
    perplexity,
    pieces_without_repeats,
    windows,
)
from farthing.report.score import Scorer

GOLDEN = Path(__file__).parents[1] / "golden" / "llama"
VOCAB = 11


class MadeUp:
    """Stands in for a Scorer: logits are a fixed function of (token, position), handed out in small chunks."""

    def __init__(self, seed: int, chunk: int) -> None:
        self.table = np.random.default_rng(seed).normal(0, 3, (64, VOCAB, VOCAB)).astype(np.float32)
        self.chunk = chunk

    def all(self, ids: Sequence[int]) -> np.ndarray:
        return np.stack([self.table[position, id] for position, id in enumerate(ids)])

    def logits(self, ids: Sequence[int], first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        whole = self.all(ids)
        for start in range(0, len(ids), self.chunk):
            rows = whole[max(start, first) : start + self.chunk]
            if start + self.chunk > first and len(rows):
                yield max(start, first), rows


def scorer(seed: int, chunk: int) -> Any:
    return MadeUp(seed, chunk)


def nll(scorer: Any, ids: Sequence[int]) -> np.ndarray:
    """-ln p of each target, written out."""
    logits = scorer.all(ids)[:-1].astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(ids) - 1), list(ids[1:])])


def test_kl_divergence_is_the_sum_written_out() -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.normal(0, 4, (5, 7)).astype(np.float32) for _ in range(2))
    a, b = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (p, q))
    expected = (a * np.log(a / b)).sum(1)
    np.testing.assert_allclose(kl_divergences(p, q), expected, rtol=1e-5)
    assert np.abs(kl_divergences(p, p)).max() == 0


def test_likelihoods_survive_large_logits() -> None:
    logits = np.array([[1000.0, 0.0, -1000.0]], np.float32)
    assert negative_log_likelihoods(logits, np.array([0]))[0] == 0
    assert negative_log_likelihoods(logits, np.array([2]))[0] == 2000


@pytest.mark.parametrize("chunk", [1, 3, 4, 8, 64])
@pytest.mark.parametrize("window", [4, 5, 8, 9])
def test_perplexity_is_that_of_the_second_halves_and_of_all(window: int, chunk: int) -> None:
    rng = np.random.default_rng(window)
    pieces = windows(tuple(rng.integers(0, VOCAB, 4 * window + 1).tolist()), window)
    assert len(pieces) == 4
    model = scorer(1, chunk)
    found = perplexity(model, pieces)
    late = np.concatenate([nll(model, ids)[window // 2 :] for ids in pieces])
    both = np.concatenate([nll(model, ids) for ids in pieces])
    assert found.perplexity == pytest.approx(np.exp(late.mean()), rel=1e-6)
    assert found.perplexity_all_targets == pytest.approx(np.exp(both.mean()), rel=1e-6)
    assert found.num_tokens == 4 * window


@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_divergence_within_perplexity_is_over_the_same_targets(chunk: int) -> None:
    ids = tuple(np.random.default_rng(3).integers(0, VOCAB, 16).tolist())
    model, reference = scorer(1, chunk), scorer(2, chunk)
    found = perplexity(model, windows(ids, 8), reference)
    rows = [slice(4, 7)] * 2
    ours, theirs = (
        np.concatenate([s.all(w)[r] for w, r in zip(windows(ids, 8), rows, strict=True)]) for s in (model, reference)
    )
    assert found.divergence is not None
    assert found.divergence.num_positions == 6
    expected = kl_divergences(theirs, ours).mean()
    assert found.divergence.kl_divergence == pytest.approx(expected, rel=1e-9)
    assert found.divergence.top1_agreement == (ours.argmax(1) == theirs.argmax(1)).mean()


def test_divergence_counts_only_what_is_new() -> None:
    pieces = pieces_without_repeats([(1, 2, 3, 4), (1, 2, 3, 5, 6), (1, 2, 3, 4), (9, 9, 9)], num_positions=7)
    assert pieces == (Piece((1, 2, 3, 4), 0), Piece((1, 2, 3, 5, 6), 3), Piece((9,), 0))
    found = divergence(scorer(1, 2), scorer(1, 2), pieces)
    assert (found.kl_divergence, found.top1_agreement, found.num_positions) == (0, 1, 7)


def test_texts_that_cannot_be_evaluated_are_named() -> None:
    with pytest.raises(InvalidRequest, match="window is 3"):
        windows((1, 2, 3, 4), 3)
    with pytest.raises(InvalidRequest, match="has 4 tokens, a window 5"):
        windows((1, 2, 3, 4, 5, 6), 5, num_tokens=4)
    with pytest.raises(InvalidRequest, match="no text"):
        divergence(scorer(1, 2), scorer(2, 2), [])


def test_scored_logits_do_not_depend_on_chunks_and_start_where_asked() -> None:
    model = load_model(GOLDEN)
    ids = [int(id) for id in np.random.default_rng(5).integers(3, 290, 50)]
    whole = np.concatenate([rows.copy() for _, rows in Scorer(model, 64, num_threads=1).logits(ids)])
    parts = Scorer(model, 64, num_threads=1, chunk=7)
    again = np.concatenate([rows.copy() for _, rows in parts.logits(ids)])
    np.testing.assert_array_equal(whole, again)
    late = [(position, rows.copy()) for position, rows in parts.logits(ids, first=23)]
    assert late[0][0] == 23
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in late]), whole[23:])
    with pytest.raises(CapacityError, match="context is 512"):
        Scorer(model, 513)

"""Topics of prompts, found without labels: a mixture of word distributions, fitted by expectation maximisation.

What file or client a prompt came from is never used. A topic is described by the words that it has and others have not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from farthing.models.grams import NUM_BUCKETS, Sparse

__all__ = ["Topics", "learn_topics"]

Matrix = NDArray[np.float64]
NUM_TOPICS = 24
NUM_STEPS = 40
MAX_SHARE = 0.2  # words of more prompts than this belong to no topic
SMOOTHING = 2.5  # words lent to each topic from the whole


@dataclass(frozen=True)
class Topics:
    log_words: Matrix  # [NUM_BUCKETS, k]; 0 for words that do not count
    log_shares: Matrix  # [k]

    def shares(self, texts: Sparse) -> Matrix:
        """[n, k]: how likely each prompt is of each topic."""
        return _normalised(texts.sums(self.log_words) + self.log_shares)


def learn_topics(texts: Sparse, rng: np.random.Generator, num_topics: int = NUM_TOPICS) -> Topics:
    num_topics = max(1, min(num_topics, len(texts) // 20))
    counts = texts.counts()
    used = np.flatnonzero((counts >= 2) & (counts < max(MAX_SHARE * len(texts), 3)))
    column = np.full(NUM_BUCKETS, -1)
    column[used] = np.arange(len(used))
    present = np.zeros((len(texts), max(len(used), 1)), np.float32)
    row = np.repeat(np.arange(len(texts)), np.diff(texts.offsets))
    counted = column[texts.indices] >= 0
    present[row[counted], column[texts.indices[counted]]] = 1
    overall = present.sum(axis=0) + 1e-9
    overall /= overall.sum()
    member = _seeds(present, num_topics, rng)
    for step in range(NUM_STEPS):
        of_topic = member.T.astype(np.float32) @ present + SMOOTHING * overall
        log_words = np.log(of_topic / of_topic.sum(axis=1, keepdims=True))
        log_shares = np.log(member.mean(axis=0) + 1e-9)
        sharpness = min(1.0, 0.3 + 0.02 * step)  # annealed: early steps do not commit
        member = _normalised(sharpness * (present @ log_words.T).astype(np.float64) + log_shares)
    weights = np.zeros((NUM_BUCKETS, num_topics))
    if len(used):
        weights[used] = log_words.T
    return Topics(weights.astype(np.float32).astype(np.float64), log_shares.astype(np.float64))


def _seeds(present: NDArray[np.float32], num_topics: int, rng: np.random.Generator) -> Matrix:
    """Membership by nearness to prompts that are far from each other."""
    rows = present * np.log(len(present) / np.maximum(present.sum(axis=0), 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9
    chosen = [int(rng.integers(len(rows)))]
    nearest = rows @ rows[chosen[0]]
    for _ in range(num_topics - 1):
        far = np.maximum(1 - nearest, 1e-6).astype(np.float64) ** 2
        chosen.append(int(rng.choice(len(rows), p=far / far.sum())))
        nearest = np.maximum(nearest, rows @ rows[chosen[-1]])
    return _normalised(20.0 * (rows @ rows[chosen].T).astype(np.float64))


def _normalised(logs: Matrix) -> Matrix:
    shares = np.exp(logs - logs.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))

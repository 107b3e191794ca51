"""Words, pairs of words and parts of words of a text, hashed into buckets: what a linear model can learn from.

A bucket is a CRC-32 modulo NUM_BUCKETS, the same on every machine and in every version of Python; two words that share
one are told apart by nobody, which costs little at this size. Only presence counts, not how often.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

__all__ = ["KINDS", "NUM_BUCKETS", "Grams", "Sparse", "bucket", "grams", "readable", "sparse", "words"]

KINDS = ("words", "pairs", "parts")
NUM_BUCKETS = 1 << 15
MAX_CHARS = 6_000  # of a longer text the two ends are read: scoring stays under a millisecond
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_+")

Indices = NDArray[np.int64]
Grams = dict[str, Indices]  # kind: the buckets that occur, sorted, each once


@dataclass(frozen=True)
class Sparse:
    """Many texts' buckets of one kind: text i has indices[offsets[i] : offsets[i + 1]]."""

    indices: Indices
    offsets: Indices

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sums(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per text the sum of its buckets' weights [NUM_BUCKETS] or [NUM_BUCKETS, k]."""
        total = np.zeros((len(self.indices) + 1, *weights.shape[1:]))
        np.cumsum(weights[self.indices], axis=0, out=total[1:])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]

    def counts(self) -> Indices:
        """In how many of the texts each bucket occurs."""
        return np.bincount(self.indices, minlength=NUM_BUCKETS)

    def take(self, rows: Indices) -> "Sparse":
        parts = [self.indices[self.offsets[i] : self.offsets[i + 1]] for i in rows]
        return _joined(parts)


def words(text: str) -> list[str]:
    """Lower case; numbers, signs and runs of underscores are words too."""
    return _WORD.findall(readable(text).lower())


def readable(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS // 2] + "\n" + text[-MAX_CHARS // 2 :]


def bucket(word: str) -> int:
    return _word_hash(word) % NUM_BUCKETS


def grams(text: str) -> Grams:
    found = words(text)
    hashes = [_word_hash(word) for word in found]
    pairs = [(first * 1_000_003 + second) % NUM_BUCKETS for first, second in pairwise(hashes)]
    parts = {bucket for word in set(found) for bucket in _word_parts(word)}
    return {
        "words": _sorted({hash % NUM_BUCKETS for hash in hashes}),
        "pairs": _sorted(set(pairs)),
        "parts": _sorted(parts),
    }


def sparse(texts: Sequence[Grams], kind: str) -> Sparse:
    return _joined([text[kind] for text in texts])


def _joined(parts: list[Indices]) -> Sparse:
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return Sparse(np.concatenate(parts) if parts else np.zeros(0, np.int64), offsets)


def _sorted(buckets: set[int]) -> Indices:
    return np.array(sorted(buckets), np.int64)


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    return crc32(word.encode())


@lru_cache(maxsize=1 << 16)
def _word_parts(word: str) -> tuple[int, ...]:
    """Runs of three and four characters of a word with its ends marked."""
    marked = f"<{word[:40]}>"
    runs = {marked[i : i + size] for size in (3, 4) for i in range(len(marked) - size + 1)}
    return tuple(crc32(run.encode()) % NUM_BUCKETS for run in runs)

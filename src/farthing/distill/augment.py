"""More texts like those one has, for the teacher to label: a small student needs more of them than a task brings.

The texts need not be good ones, nor keep their meaning: what the teacher says of them is what is learnt.
"""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["variants"]

_RATE = 0.15  # of words that an edit touches
_MOST_TRIES = 4  # per wanted text


def variants(texts: Sequence[str], num: int, seed: int = 0) -> list[str]:
    """`num` new texts, fewer where the given ones are too few to make so many different ones of. The same arguments
    give the same texts."""
    known, result = {_key(text) for text in texts}, list[str]()
    split = [text.split() for text in texts]
    split = [words for words in split if words]
    if not split:
        return []
    draw, pool = np.random.default_rng(seed), [word for words in split for word in words]
    edits: tuple[Callable[[list[str]], list[str]], ...] = (
        lambda words: _dropped(words, draw),
        lambda words: _swapped(words, draw),
        lambda words: _replaced(words, pool, draw),
        lambda words: _joined(words, split[int(draw.integers(len(split)))], draw),
        lambda words: _mistyped(words, draw),
        lambda words: _plain(words),
    )
    for _ in range(num * _MOST_TRIES):
        if len(result) == num:
            break
        words = split[int(draw.integers(len(split)))]
        for edit in draw.choice(len(edits), size=int(draw.integers(1, 3)), replace=False):
            words = edits[int(edit)](words)
        text = " ".join(words)
        if _key(text) not in known:
            known.add(_key(text))
            result.append(text)
    return result


def _key(text: str) -> str:
    return " ".join(text.split())


def _dropped(words: list[str], draw: np.random.Generator) -> list[str]:
    kept = [word for word in words if draw.random() >= _RATE]
    return kept or words[:1]


def _swapped(words: list[str], draw: np.random.Generator) -> list[str]:
    if len(words) < 2:
        return words
    at = int(draw.integers(len(words) - 1))
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def _replaced(words: list[str], pool: Sequence[str], draw: np.random.Generator) -> list[str]:
    """By words of other texts, as often as those have them."""
    return [pool[int(draw.integers(len(pool)))] if draw.random() < _RATE else word for word in words]


def _joined(words: list[str], others: list[str], draw: np.random.Generator) -> list[str]:
    """The beginning of one text and the end of another."""
    return words[: int(draw.integers(1, len(words) + 1))] + others[int(draw.integers(len(others))) :]


def _mistyped(words: list[str], draw: np.random.Generator) -> list[str]:
    """Two letters of a word change places."""
    at = int(draw.integers(len(words)))
    word = words[at]
    if len(word) < 3:
        return words
    i = int(draw.integers(len(word) - 1))
    return [*words[:at], word[:i] + word[i + 1] + word[i] + word[i + 2 :], *words[at + 1 :]]


def _plain(words: list[str]) -> list[str]:
    """Without capitals, and without the mark at the end."""
    lowered = [word.lower() for word in words]
    return [*lowered[:-1], lowered[-1].rstrip("?.!") or lowered[-1]]

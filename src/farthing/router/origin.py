"""Which rows a router was made from, by hashes of their prompts, so that none of them trains and judges at once.

32 bits of a SHA-256 a prompt: enough to tell rows apart (one in 400,000 of 10,000 is dropped for nothing), too few to
be a copy of any. Prompts that differ in case and white space alone are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Origin", "Unit", "chosen_part", "prompt_hashes"]

Hashes = NDArray[np.int64]
Unit = Literal["USD per request", "USD per million tokens"]


def _no_rows() -> Hashes:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Origin:
    trained: Hashes = field(default_factory=_no_rows)
    calibrated: Hashes = field(default_factory=_no_rows)
    unit: Unit = "USD per request"  # of the costs


def prompt_hashes(prompts: Sequence[str]) -> Hashes:
    """32 bits each, signed as the file keeps them."""
    return np.array([int.from_bytes(_digest(prompt)[:4], "little", signed=True) for prompt in prompts], np.int64)


def chosen_part(prompts: Sequence[str], share: float, purpose: str) -> NDArray[np.bool_]:
    """Which rows fall into a part of that size: by their content, so that the same row always does.

    Parts of different purposes are drawn apart from each other."""
    limit = share * 2**32
    return np.array([int.from_bytes(_digest(prompt, purpose)[:4], "little") < limit for prompt in prompts], np.bool_)


def _digest(prompt: str, purpose: str = "") -> bytes:
    text = " ".join(prompt.lower().split())
    return sha256(f"{purpose}\0{text}".encode("utf-8", "replace")).digest()

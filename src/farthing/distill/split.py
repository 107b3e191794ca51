"""Which rows teach and which are held back to measure: told by what a row says, never by where it stands.

So a row stays on its side whatever comes before it in the next collection, in any order, on any machine; and a text
that stands in the data twice, but for its case, punctuation and spaces, is never on both sides.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.report.compare_match import normalized
from farthing.router.origin import chosen_part

__all__ = ["HELD_OUT_SHARE", "chosen_on", "held_out", "text_key"]

Rows = NDArray[np.bool_]

HELD_OUT_SHARE = 0.1
MOST_HELD_OUT = 0.5


def text_key(text: str) -> str:
    """The same for texts that differ in case, punctuation or white space alone."""
    return normalized(text) or " ".join(text.split())


def held_out(texts: Sequence[str], share: float = HELD_OUT_SHARE) -> Rows:
    """Which rows are measured on, by their prompts. Raises InvalidRequest for a share that is not within 0 to 0.5."""
    return _part(texts, share, "distill: held out")


def chosen_on(texts: Sequence[str], share: float = HELD_OUT_SHARE) -> Rows:
    """Which of the other rows choose (when to stop, thresholds): drawn apart from those that are measured on."""
    return _part(texts, share, "distill: chosen on")


def _part(texts: Sequence[str], share: float, purpose: str) -> Rows:
    if not 0 <= share <= MOST_HELD_OUT:
        raise InvalidRequest(f"the held-out share is {share}; allowed: 0 to {MOST_HELD_OUT}")
    return chosen_part([text_key(text) for text in texts], share, purpose)

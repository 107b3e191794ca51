"""A trained router: scorers before the call and after the small model's answer, prices, curve and drift baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Proven
from farthing.router.curve import Point
from farthing.router.drift import Baseline
from farthing.router.encode import Encoded, encode_answers, encode_prompts
from farthing.router.grams import Sparse
from farthing.router.origin import Origin
from farthing.router.policy import choose, escalates
from farthing.router.probability import Platt
from farthing.router.scorers import Scorer
from farthing.router.signals import SIGNAL_NAMES
from farthing.router.structure import NAMES

__all__ = ["MODES", "Check", "Decision", "Trained"]

Matrix = NDArray[np.float64]
MODES = ("route", "cascade")  # one call chosen from the prompt; or the small model first, its answer checked
_LOG_CHARS = NAMES.index("log_chars")


@dataclass(frozen=True)
class Check:
    """The scorer of the first model's answers, and what makes its score a probability of being right."""

    scorer: Scorer
    platt: Platt
    next_quality: float  # mean of the second model's on the training rows: what escalating is expected to give


@dataclass(frozen=True)
class Decision:
    model: str
    quality: Mapping[str, float]  # expected of each model
    price: float
    parts: Mapping[
        str, float
    ]  # of the dearest model's expected lead over the cheapest, by block; "mean" for all prompts
    topic: tuple[str, ...]  # words of the likeliest topic


@dataclass(frozen=True)
class Trained:
    models: tuple[str, ...]
    costs: tuple[float, ...]
    before: Scorer
    check: Check | None
    prices: Mapping[str, tuple[float, ...]]  # by mode: the candidates, fixed by the training rows
    proven: Mapping[str, Proven]  # by mode, where calibrated
    curves: Mapping[str, tuple[Point, ...]]  # by mode, on the rows that calibrated
    base: Baseline
    topic_words: tuple[tuple[str, ...], ...]
    origin: Origin = field(default_factory=Origin)  # the rows that it was made from

    def price(self, mode: str) -> float:
        """Raises InvalidRequest where the mode was not calibrated, or nothing could be proven."""
        found = self.proven.get(mode)
        if found is None or found.price is None:
            why = "no threshold was proven" if found else "it is not calibrated"
            raise InvalidRequest(f"this router has no threshold for {mode}: {why}; `farthing route calibrate` sets one")
        return found.price

    def decide(self, prompt: str, hidden: Matrix | None = None) -> Decision:
        """Which model is asked, and why. `hidden` [d] where the router was trained with it."""
        encoded = encode_prompts([prompt], None if hidden is None else hidden[None])
        return self.decision(encoded, self.price("route"))

    def decision(self, encoded: Encoded, price: float) -> Decision:
        """The same at a given price, of one prompt that is encoded already."""
        parts = self.before.parts(encoded)
        quality = self.before.means + sum(part[0] for part in parts.values())
        chosen = int(choose(quality[None], np.array(self.costs), price)[0])
        lead = {name: float(part[0, -1] - part[0, 0]) for name, part in parts.items()}
        topic = int(np.argmax(self.before.topics.shares(encoded.texts["words"])[0]))
        return Decision(
            self.models[chosen],
            dict(zip(self.models, map(float, quality), strict=True)),
            price,
            {"mean": float(self.before.means[-1] - self.before.means[0]), **lead},
            self.topic_words[topic],
        )

    def p_right(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        hidden: Matrix | None = None,
        signals: Matrix | None = None,
    ) -> Matrix:
        """How likely the first model's answers are right. `signals` count where it was trained with them, and are then
        taken to be as usual where they are not given. Raises InvalidRequest where none were there to train on."""
        if self.check is None:
            raise InvalidRequest("this router was trained without the first model's answers: it cannot check any")
        if signals is None and "signals" in self.check.scorer.forms:
            signals = np.full((len(prompts), len(SIGNAL_NAMES)), np.nan)
        encoded = encode_answers(prompts, answers, hidden, signals)
        return self.check.platt(self.check.scorer.quality(encoded)[:, 0])

    def escalates(self, p_right: Matrix, price: float | None = None) -> NDArray[np.bool_]:
        """Whether each answer's expected loss exceeds the price of the second model's."""
        assert self.check is not None, "p_right came from a check"
        return escalates(
            p_right, self.check.next_quality, self.costs[1], self.price("cascade") if price is None else price
        )

    def signals(self, encoded: Encoded) -> dict[str, Matrix]:
        """What the drift alarm watches, of live prompts."""
        quality = self.before.quality(encoded)
        known = known_share(encoded.texts["words"], self.before.texts["words"].idf > 0)
        return drift_signals(quality[:, -1] - quality[:, 0], encoded, known)

    def save(self, path: str | Path) -> None:
        from farthing.router.trained_file import save

        save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> "Trained":
        """Raises ModelNotFound, UnsupportedModel (foreign or newer), CorruptModel (truncated, a length that lies)."""
        from farthing.router.trained_file import load

        return load(Path(path))


def drift_signals(gap: Matrix, encoded: Encoded, known: Matrix) -> dict[str, Matrix]:
    return {"expected gap": gap, "log_chars": encoded.forms["form"][:, _LOG_CHARS], "known words": known}


def known_share(words: Sparse, is_known: NDArray[np.bool_]) -> Matrix:
    return np.asarray(words.sums(is_known.astype(np.float64)) / np.maximum(np.diff(words.offsets), 1))

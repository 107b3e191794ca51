"""A trained router: scorers before the call and after the small model's answer, prices, curve and drift baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.models.grams import Sparse
from farthing.router.calibrate import Proven
from farthing.router.curve import Checked, Point
from farthing.router.drift import Baseline
from farthing.router.encode import Encoded, encode_answers, encode_prompts
from farthing.router.hidden import HiddenSpace
from farthing.router.labelled import Labelled
from farthing.router.origin import Origin
from farthing.router.policy import choose, next_model, worths
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
    """The scorer of one model's answers, and what makes its score a probability of being right."""

    scorer: Scorer
    platt: Platt
    next_quality: tuple[float, ...]  # means of the models after it on the training rows: what asking them should give
    spread: tuple[float, ...] = ()  # quantiles of the chance of being right, of the training rows' answers


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
    checks: Mapping[int, Check]  # by model: of the first, and where their answers were there of others but the dearest
    prices: Mapping[str, tuple[float, ...]]  # by mode: the candidates, fixed by the training rows
    proven: Mapping[str, Proven]  # by mode, where calibrated
    curves: Mapping[str, tuple[Point, ...]]  # by mode, on the rows that calibrated
    base: Baseline
    topic_words: tuple[tuple[str, ...], ...]
    origin: Origin = field(default_factory=Origin)  # the rows that it was made from
    hidden: HiddenSpace | None = None  # of the first model, where the check of its answers looks at its states

    @property
    def check(self) -> Check | None:
        """Of the first model's answers; None where a cascade is not possible."""
        return self.checks.get(0)

    def price(self, mode: str) -> float:
        """Raises InvalidRequest where the mode was not calibrated, or nothing could be proven."""
        found = self.proven.get(mode)
        if found is None or found.price is None:
            why = "no threshold was proven" if found else "it is not calibrated"
            raise InvalidRequest(f"this router has no threshold for {mode}: {why}; `farthing route calibrate` sets one")
        return found.price

    def decide(self, prompt: str) -> Decision:
        """Which model is asked, and why."""
        return self.decision(encode_prompts([prompt]), self.price("route"))

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
        model: int = 0,
    ) -> Matrix:
        """How likely a model's answers are right. `signals` and `hidden`, its states of the prompts [n, width], count
        where it was trained with them, and are then taken to be as usual where they are not given. Raises
        InvalidRequest where no answers were there to train on."""
        check = self.checks.get(model)
        if check is None:
            which = "the first model's" if model == 0 else f"{self.models[model]}'s"
            raise InvalidRequest(f"this router was trained without {which} answers: it cannot check any")
        if signals is None and "signals" in check.scorer.forms:
            signals = np.full((len(prompts), len(SIGNAL_NAMES)), np.nan)
        projected = None
        if self.hidden is not None and model == 0:
            projected = self.hidden.project(np.full((len(prompts), 0), np.nan) if hidden is None else hidden)
        encoded = encode_answers(prompts, answers, projected, signals)
        return check.platt(check.scorer.quality(encoded)[:, 0])

    def next_model(self, p_right: Matrix, model: int = 0, price: float | None = None) -> NDArray[np.int64]:
        """The model to ask after each answer: `model` itself where the expected loss of keeping it does not exceed the
        price of any dearer one's."""
        price = self.price("cascade") if price is None else price
        return np.asarray(model + next_model(p_right, self.worths(model, price), price))

    def worths(self, model: int, price: float) -> Matrix:
        """What asking each model after `model` is worth, less its price (policy.worths)."""
        quality = self.checks[model].next_quality
        costs = self.costs[model + 1 : model + 1 + len(quality)]
        spreads = {other - model - 1: check.spread for other, check in self.checks.items() if other > model}
        return worths(quality, costs, spreads, price)

    def escalates(self, p_right: Matrix, model: int = 0, price: float | None = None) -> NDArray[np.bool_]:
        return np.asarray(self.next_model(p_right, model, price) != model)

    def checked(self, rows: Labelled) -> dict[int, Checked]:
        """What its checks say of the answers of `rows`, as `cascade_outcome` takes it. Raises InvalidRequest where the
        answers of a model that it checks are missing, or the hidden states that it looks at."""
        missing = [self.models[number] for number in self.checks or (0,) if number not in rows.checked]
        if missing or not self.checks:
            who = ", ".join(missing) or self.models[0]
            raise InvalidRequest(f"a cascade needs answers of {who}: these rows, or those that trained it, have none")
        states = None
        if self.hidden is not None:
            if rows.hidden is None or rows.hidden.model != self.hidden.model:
                raise InvalidRequest(f"this router looks at {self.hidden.model}'s hidden states, which are missing")
            states = rows.hidden.states
        found = {}
        for number, check in self.checks.items():
            answers = rows.checked[number]
            p_right = self.p_right(rows.prompts, answers.texts, states, answers.signals, number)
            found[number] = Checked(p_right, check.next_quality, check.spread)
        return found

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

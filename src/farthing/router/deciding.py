"""Who decides: a trained file, or before there are labels the prior and the model's own confidence."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.config import RouterConfig
from farthing.router.drafting import Draft
from farthing.router.drift import MIN_LIVE, Drift, drift
from farthing.router.encode import encode_prompts
from farthing.router.question import Question
from farthing.router.signals import confidence, signals
from farthing.router.structure import prior, structure
from farthing.router.trained import Decision, Trained, drift_signals, known_share

__all__ = ["Choice", "Decider", "PriorDecider", "TrainedDecider", "Verdict", "make_decider"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """why is a route: a kind, a colon, details."""

    member: int
    why: str
    is_cascade: bool = False  # its answer is checked before it is given


@dataclass(frozen=True, slots=True)
class Verdict:
    """next_member: who is asked where it is not kept; None: the one after it."""

    is_kept: bool
    why: str
    next_member: int | None = None


class Decider(Protocol):
    """Takes neither network nor disk: its methods are called in the event loop."""

    def choose(self, question: Question) -> Choice: ...

    def checks(self, member: int) -> bool:
        """Whether it can judge that member's answers."""
        ...

    @property
    def wants_hidden(self) -> bool:
        """Whether it looks at the first member's hidden states."""
        ...

    def judge(self, question: Question, draft: Draft, samples: Sequence[str], member: int = 0) -> Verdict: ...

    def drift(self) -> Drift | None:
        """None where there is nothing to compare with, or not enough to say."""
        ...


def make_decider(config: RouterConfig, are_local: Sequence[bool], first_model: str = "") -> Decider:
    """are_local: of the members, in order; first_model: what the first one serves. Raises FarthingError for a file that
    cannot be used, or does not belong to these upstreams."""
    num_members = len(are_local)
    for name, is_given in (("samples", config.samples > 0), ("min_confidence", config.min_confidence is not None)):
        if is_given and not are_local[0]:
            raise InvalidRequest(f"router {name} needs a first upstream that is local: hosted ones do not tell enough")
    if config.file is not None:
        trained = Trained.load(config.file)
        if trained.hidden is not None and config.mode != "route":
            _check_hidden(trained.hidden.model, config, first_model if are_local[0] else None)
        return TrainedDecider(trained, config, num_members)
    if num_members != 2:
        raise InvalidRequest(f"a router without a file is for two upstreams, not {num_members}; train one")
    return PriorDecider(config)


class TrainedDecider:
    def __init__(self, trained: Trained, config: RouterConfig, num_members: int) -> None:
        self._trained, self._mode = trained, config.mode
        if len(trained.models) != num_members:
            raise InvalidRequest(
                f"{config.file} routes between {len(trained.models)} models ({', '.join(trained.models)}), and there"
                f" are {num_members} upstreams; list as many, in order of cost"
            )
        modes = ("route", "cascade") if config.mode == "both" else (config.mode,)
        self._prices = {mode: _price(trained, mode, config) for mode in modes}
        if config.samples and (trained.check is None or "signals" not in trained.check.scorer.forms):
            raise InvalidRequest(f"{config.file} was trained without signals, so samples would be paid for nothing")
        self._live: deque[tuple[float, ...]] = deque(maxlen=config.drift_window)
        self._is_known = trained.before.texts["words"].idf > 0
        self._names: tuple[str, ...] = tuple(trained.base.edges)

    def choose(self, question: Question) -> Choice:
        encoded = encode_prompts([question.prompt])
        price = self._prices.get("route", inf)
        decision = self._trained.decision(encoded, price)
        quality = np.array([decision.quality[name] for name in self._trained.models])
        self._note(
            drift_signals(quality[-1:] - quality[:1], encoded, known_share(encoded.texts["words"], self._is_known))
        )
        member = self._trained.models.index(decision.model)
        if self._mode == "cascade" or (self._mode == "both" and member == 0):
            return Choice(0, "cascade", is_cascade=True)
        return Choice(member, f"router: {_gap(decision, quality, self._trained.costs, member)}")

    def checks(self, member: int) -> bool:
        return member in self._trained.checks

    @property
    def wants_hidden(self) -> bool:
        return self._trained.hidden is not None

    def judge(self, question: Question, draft: Draft, samples: Sequence[str], member: int = 0) -> Verdict:
        found = signals(draft.logprobs, draft.text, samples)[None]
        hidden = np.array([draft.hidden], np.float64)
        p_right = self._trained.p_right([question.prompt], [draft.text], hidden, found, member)
        to = int(self._trained.next_model(p_right, member, self._prices["cascade"])[0])
        is_kept = to == member
        return Verdict(is_kept, f"cascade {_word(is_kept)}: p_right {p_right[0]:.2f}", None if is_kept else to)

    def drift(self) -> Drift | None:
        if len(self._live) < MIN_LIVE:
            return None
        columns = np.array(self._live).T
        return drift(self._trained.base, dict(zip(self._names, columns, strict=True)))

    def _note(self, found: Mapping[str, Matrix]) -> None:
        self._live.append(tuple(float(found[name][0]) for name in self._names))


class PriorDecider:
    """Before there are labels: the dearer model for the prompts with the most to read and to bind, as many of the last
    ones as `share` says; or a cascade by the small model's own confidence. Nothing is promised."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def choose(self, question: Question) -> Choice:
        if self._config.mode == "cascade":
            return Choice(0, "cascade", is_cascade=True)
        assert self._config.share is not None, "the configuration was checked"
        rank = self._rank(float(prior(structure(question.prompt))))
        limit = 1 - self._config.share
        is_large = rank > limit or limit == 0
        return Choice(int(is_large), f"router: prior {rank:.2f} {'>' if is_large else '<='} {limit:.2f}")

    def checks(self, member: int) -> bool:
        return member == 0

    @property
    def wants_hidden(self) -> bool:
        return False

    def judge(self, question: Question, draft: Draft, samples: Sequence[str], member: int = 0) -> Verdict:
        del question, samples, member
        least, found = self._config.min_confidence, confidence(draft.logprobs)
        assert least is not None, "the configuration was checked"
        if found is None:
            return Verdict(False, "cascade escalated: no log-probabilities")
        is_kept = found >= least
        return Verdict(is_kept, f"cascade {_word(is_kept)}: confidence {found:.2f}")

    def drift(self) -> Drift | None:
        return None

    def _rank(self, score: float) -> float:
        """Among the last prompts, itself in the middle of its equals: 0 to 1."""
        if len(self._recent) >= self._config.drift_window:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        self._recent.append(score)
        insort(self._sorted, score)
        below = bisect_left(self._sorted, score)
        equal = bisect_left(self._sorted, np.nextafter(score, inf)) - below
        return float((below + equal / 2) / len(self._sorted))


def _check_hidden(model: str, config: RouterConfig, local_model: str | None) -> None:
    if model != local_model:
        there = "not local" if local_model is None else f"{local_model!r}"
        raise InvalidRequest(
            f"{config.file} looks at the hidden states of {model!r}, and the first upstream's model is {there}; put"
            " that model first, or train without --hidden-states-of"
        )


def _price(trained: Trained, mode: str, config: RouterConfig) -> float:
    if config.share is not None:
        return _price_of_share(trained, mode, config.share)
    if mode == "cascade" and trained.check is None:
        raise InvalidRequest(f"{config.file} was trained without the first model's answers: it cannot check any")
    return trained.price(mode) if config.price is None else config.price


def _price_of_share(trained: Trained, mode: str, share: float) -> float:
    """The least price whose share of dearer calls, on the rows that calibrated, is not above `share`."""
    points = trained.curves.get(mode, ())
    if not points:
        raise InvalidRequest("share needs the router file's curve; `farthing route calibrate` writes it")
    return min((point.price for point in points if point.share <= share), default=inf)


def _gap(decision: Decision, quality: Matrix, costs: Sequence[float], member: int) -> str:
    """The lead over the cheapest that the best dearer model is expected to have, and what it had to be."""
    if np.isinf(decision.price):
        return "always the dearest" if decision.price < 0 else "always the cheapest"
    worth = quality - decision.price * np.array(costs)
    other = member or 1 + int(np.argmax(worth[1:]))
    needed = decision.price * (costs[other] - costs[0])
    return f"gap {quality[other] - quality[0]:.2f} {'>' if member else '<='} {needed:.2f}"


def _word(is_kept: bool) -> str:
    return "kept" if is_kept else "escalated"

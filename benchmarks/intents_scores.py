"""What each stage says of each row, measured once, and the stages that can be made of it."""

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.intents_cascade import Stage
from benchmarks.intents_data import Intents, Split
from benchmarks.intents_embedded import Embedded
from benchmarks.intents_linear import Linear, Nearest
from farthing.economics.cost import HostCost
from farthing.economics.count import count_for_model
from farthing.economics.prices import Price, TokenCounts

__all__ = ["Scored", "Weights", "all_stages", "fit_weights", "score"]

NUM_CANDIDATES = 5
WEIGHTS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
LEAST_SHARE = 1e-3  # an intent that no near row has is not impossible
SENTENCE_TOKENS = 30  # of the large model's instruction, beside the list of intents
ANSWER_TOKENS = 6
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """k candidate intents per row: [n, k] each, and the seconds that the model took for a row."""

    labels: NDArray[np.int64]
    likelihoods: Vector  # log p(question | intent)
    seconds: Vector


@dataclass(frozen=True)
class Scored:
    labels: NDArray[np.int64]
    linear: Vector  # [n, intents] log-probabilities
    linear_s: Vector
    shares: Vector  # [n, intents] log shares of the nearest rows
    shares_s: Vector
    near: Candidates  # of the nearest rows: no training
    likely: Candidates  # the linear model's


@dataclass(frozen=True)
class Weights:
    """How much each second opinion counts beside its prior. (A model's tokens are not independent, so its
    log-likelihood alone is far too sure of itself.)"""

    model_alone: float
    model_on_shares: float
    model_on_linear: float
    shares_on_linear: float


def score(split: Split, linear: Linear, nearest: Nearest, embedded: Embedded) -> Scored:
    num = len(split)
    log_chances, shares, times = [], [], np.zeros((num, 4))
    labels = np.zeros((2, num, NUM_CANDIDATES), np.int64)
    likelihoods = np.zeros((2, num, NUM_CANDIDATES))
    for row, text in enumerate(split.texts):
        ticks = Ticks()
        log_chances.append(linear.log_chances(text))
        times[row, 0] = ticks.next()
        shares.append(np.log(np.maximum(nearest.shares(text), LEAST_SHARE)))
        times[row, 1] = ticks.next()
        for place, chances in enumerate((shares[-1], log_chances[-1])):
            labels[place, row] = np.argsort(-chances, kind="stable")[:NUM_CANDIDATES]
            likelihoods[place, row] = embedded.log_likelihoods(text, labels[place, row])
            times[row, 2 + place] = ticks.next()
    near, likely = (Candidates(labels[i], likelihoods[i], times[:, 2 + i]) for i in range(2))
    linear_all, shares_all = np.array(log_chances, np.float64), np.array(shares)
    return Scored(split.labels, linear_all, times[:, 0], shares_all, times[:, 1], near, likely)


class Ticks:
    def __init__(self) -> None:
        self._last = perf_counter()

    def next(self) -> float:
        last, self._last = self._last, perf_counter()
        return self._last - last


def fit_weights(scored: Scored) -> Weights:
    """By log loss on validation rows whose intent is among the candidates."""

    def best(prior: Vector | None, opinion: Vector, candidates: Candidates) -> float:
        hits = candidates.labels == scored.labels[:, None]
        rows = hits.any(axis=1)

        def loss(weight: float) -> float:
            chances = (_chances(prior, opinion, weight) * hits)[rows].sum(axis=1)
            return float(-np.log(np.maximum(chances, 1e-6)).mean())

        return min(WEIGHTS if prior is not None else WEIGHTS[1:], key=loss)

    near, likely = scored.near, scored.likely
    linear, shares = _at(scored.linear, likely), _at(scored.shares, likely)
    return Weights(
        model_alone=best(None, near.likelihoods, near),
        model_on_shares=best(_at(scored.shares, near), near.likelihoods, near),
        model_on_linear=best(linear, likely.likelihoods, likely),
        shares_on_linear=best(linear, shares, likely),
    )


def all_stages(
    scored: Scored, weights: Weights, split: Split, intents: Intents, price: Price, large_s: float
) -> dict[str, Stage]:
    """By name. A second stage's seconds are its own: what the first took is paid by the cascade."""
    near, likely = scored.near, scored.likely
    linear, shares = _at(scored.linear, likely), _at(scored.shares, likely)
    near_shares, near_s = _at(scored.shares, near), scored.shares_s + near.seconds
    found = [
        _stage("neighbours", scored, near, near_shares, near_shares, 0.0, scored.shares_s),
        _stage("embedded, examples alone", scored, near, None, near.likelihoods, weights.model_alone, near_s),
        _stage("embedded", scored, near, near_shares, near.likelihoods, weights.model_on_shares, near_s),
        _stage("linear", scored, likely, linear, linear, 0.0, scored.linear_s),
        _stage("linear, then neighbours", scored, likely, linear, shares, weights.shares_on_linear, scored.shares_s),
        _stage(
            "linear, then embedded", scored, likely, linear, likely.likelihoods, weights.model_on_linear, likely.seconds
        ),
        _large(split, intents, price, large_s),
    ]
    return {stage.name: stage for stage in found}


def _stage(
    name: str,
    scored: Scored,
    candidates: Candidates,
    prior: Vector | None,
    opinion: Vector,
    weight: float,
    seconds: Vector,
) -> Stage:
    chances = _chances(prior, opinion, weight)
    best = np.take_along_axis(candidates.labels, chances.argmax(axis=1)[:, None], axis=1)[:, 0]
    host = HostCost()
    usd = seconds * float(host.usd_per_hour) / 3600 / float(host.utilisation)
    return Stage(name, best == scored.labels, chances.max(axis=1), usd, seconds)


def _large(split: Split, intents: Intents, price: Price, seconds: float) -> Stage:
    """The reference answers, at the price of a prompt that lists every intent."""
    listed = count_for_model(", ".join(intents.names), price.model).tokens + SENTENCE_TOKENS
    tokens = [listed + count_for_model(text, price.model).tokens for text in split.texts]
    usd = [float(price.bill(TokenCounts(num, ANSWER_TOKENS)).total_usd) for num in tokens]
    num = len(split)
    return Stage("large", np.ones(num, bool), np.ones(num), np.array(usd), np.full(num, seconds))


def _at(values: Vector, candidates: Candidates) -> Vector:
    return np.take_along_axis(values, candidates.labels, axis=1)


def _chances(prior: Vector | None, opinion: Vector, weight: float) -> Vector:
    """[n, k] probabilities over the candidates: prior times opinion to the power of `weight`. All probability outside
    of the candidates stays outside: a linear model that is unsure among all intents stays unsure."""
    scores = weight * opinion if prior is None else prior + weight * (opinion - _log_sum(opinion))
    mass = 1.0 if prior is None else np.exp(_log_sum(prior))
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(chances / chances.sum(axis=1, keepdims=True) * np.minimum(mass, 1.0))


def _log_sum(scores: Vector) -> Vector:
    most = scores.max(axis=1, keepdims=True)
    return np.asarray(most + np.log(np.exp(scores - most).sum(axis=1, keepdims=True)))

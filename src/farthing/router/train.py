"""From labelled rows to a router, and from other labelled rows to its thresholds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.models.grams import bucket, words
from farthing.router.blocks import MIN_TEXTS
from farthing.router.calibrate import Goal, prove
from farthing.router.curve import cascade_outcome, curve, route_outcome
from farthing.router.drift import baseline
from farthing.router.encode import Encoded, encode_answers, encode_prompts
from farthing.router.hidden import HiddenSpace, learn_space
from farthing.router.labelled import Answers, Labelled
from farthing.router.policy import candidate_prices, checked_costs
from farthing.router.probability import fit_platt
from farthing.router.scorers import AFTER_ANSWER, BEFORE_CALL, Learned, learn
from farthing.router.topics import Topics
from farthing.router.trained import MODES, Check, Trained, drift_signals, known_share

__all__ = ["calibrate", "train"]

Matrix = NDArray[np.float64]
NUM_TOPIC_WORDS = 6
SPREAD = (np.arange(32) + 0.5) / 32


def train(rows: Labelled, seed: int = 0) -> Trained:
    """Scorers, candidate prices and the drift baseline. Thresholds come from `calibrate`, on other rows. Hidden states
    count where the first model's answers are checked: raises InvalidRequest where there are no answers."""
    if rows.hidden is not None and rows.answers is None:
        raise InvalidRequest("hidden states are looked at where an answer is checked; these rows have no answers")
    space = None if rows.hidden is None else learn_space(rows.hidden)
    encoded = encode_prompts(rows.prompts)
    learned = learn(encoded, rows.quality, BEFORE_CALL, seed)
    costs = checked_costs(rows.costs)
    gains = np.diff(learned.left_out, axis=1) / np.diff(costs)
    prices = {"route": tuple(candidate_prices(gains.ravel()))}
    checks = {}
    ratios = []
    for number, answers in rows.checked.items():
        checks[number], p_right = _learn_check(rows, number, answers, seed, space)
        for dearer, quality in enumerate(checks[number].next_quality, number + 1):
            ratios.append((quality - p_right) / costs[dearer])
    if ratios:
        prices["cascade"] = tuple(candidate_prices(np.concatenate(ratios)))
    topic_words = _topic_words(learned.scorer.topics, rows.prompts)
    signals = _base_signals(learned, encoded)
    return Trained(
        rows.models, rows.costs, learned.scorer, checks, prices, {}, {}, baseline(signals), topic_words, hidden=space
    )


def calibrate(trained: Trained, rows: Labelled, goal: Goal, mode: str) -> Trained:
    """The same router with a threshold for `mode` that keeps `goal`, and its curve. `rows` must be others than those
    that trained it. Where nothing can be proven, `proven` says so and the router has no threshold."""
    if mode not in trained.prices:
        raise InvalidRequest(f"mode is {mode}; this router has {', '.join(trained.prices)} of {', '.join(MODES)}")
    if rows.models != trained.models:
        raise InvalidRequest(f"rows of {', '.join(rows.models)} for a router of {', '.join(trained.models)}")
    if mode == "route":
        outcome = route_outcome(rows, trained.before.quality(encode_prompts(rows.prompts)))
    else:
        outcome = cascade_outcome(rows, trained.checked(rows))
    prices = trained.prices[mode]
    found = prove(goal, prices, outcome)
    curves = {**trained.curves, mode: curve(rows, outcome, prices)}
    return replace(trained, costs=rows.costs, proven={**trained.proven, mode: found}, curves=curves)


def _learn_check(
    rows: Labelled, model: int, answers: Answers, seed: int, space: HiddenSpace | None
) -> tuple[Check, Matrix]:
    hidden = None if space is None or rows.hidden is None or model else space.project(rows.hidden.states)
    encoded = encode_answers(rows.prompts, answers.texts, hidden, answers.signals)
    learned = learn(encoded, rows.quality[:, model : model + 1], AFTER_ANSWER, seed)
    scores = learned.left_out[:, 0]
    platt = fit_platt(scores, rows.quality[learned.rows, model])
    next_quality = tuple(map(float, rows.quality[:, model + 1 :].mean(axis=0)))
    p_right = platt(scores)
    return Check(learned.scorer, platt, next_quality, tuple(map(float, np.quantile(p_right, SPREAD)))), p_right


def _base_signals(learned: Learned, encoded: Encoded) -> dict[str, Matrix]:
    """Of the training rows as if each were new: its gap by the others' labels, its words known by two others."""
    part = encoded.take(learned.rows)
    is_known = (learned.scorer.texts["words"].idf > 0) & (part.texts["words"].counts() > MIN_TEXTS)
    gap = learned.left_out[:, -1] - learned.left_out[:, 0]
    return drift_signals(gap, part, known_share(part.texts["words"], is_known))


def _topic_words(topics: Topics, prompts: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The words whose share in a topic stands out most from their share in all."""
    by_bucket: dict[int, str] = {}
    for prompt in prompts:
        for word in words(prompt):
            by_bucket.setdefault(bucket(word), word)
    lead = topics.log_words - topics.log_words.mean(axis=1, keepdims=True)
    weight = np.exp(topics.log_words) * lead  # a share of the whole topic, not a rare word's chance
    found = []
    for column in range(weight.shape[1]):
        best = np.argsort(-weight[:, column], kind="stable")[: 4 * NUM_TOPIC_WORDS]
        named = [by_bucket[int(i)] for i in best if int(i) in by_bucket and topics.log_words[i, column] != 0]
        found.append(tuple(word for word in named if word.isalpha() and len(word) > 2)[:NUM_TOPIC_WORDS])
    return tuple(found)

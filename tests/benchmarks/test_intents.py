"""The pieces of benchmarks/intents.py whose figures could be wrong without anybody seeing it."""

import csv
import json

import numpy as np
import pytest

from benchmarks.intents_cascade import Stage, choose_thresholds, curve, serve
from benchmarks.intents_data import NUM_VALIDATION, Split, load_intents
from benchmarks.intents_embedded import Embedded
from benchmarks.intents_linear import Nearest, train_linear
from farthing.models import load_model
from farthing.report.score import Scorer
from tests.models.small import GOLDEN

TEXTS = (
    "where is my card",
    "has my card been sent",
    "card arrival date",
    "change my pin",
    "new pin please",
    "pin reset",
)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def stage(name, right, confidence, usd):
    right = np.array(right, bool)
    return Stage(name, right, np.array(confidence, float), np.full(len(right), usd), np.full(len(right), usd))


def test_every_stage_that_is_asked_is_paid():
    first = stage("first", [1, 0, 0, 1], [0.9, 0.8, 0.2, 0.1], 1.0)
    second = stage("second", [1, 1, 1, 0], [0.9, 0.9, 0.9, 0.3], 10.0)
    last = stage("last", [1, 1, 1, 1], [1, 1, 1, 1], 100.0)
    found = serve([first, second, last], [0.5, 0.5])
    assert found.right.tolist() == [True, False, True, True]
    assert found.usd.tolist() == [1.0, 1.0, 11.0, 111.0]
    assert found.shares == (0.5, 0.25, 0.25)
    assert serve([first, second, last], [np.inf, 0.5]).usd.tolist() == [10.0, 10.0, 10.0, 110.0]


def test_thresholds_are_the_cheapest_that_reach_the_target():
    first = stage("first", [1, 1, 0, 0], [0.9, 0.8, 0.7, 0.1], 1.0)
    last = stage("last", [1, 1, 1, 1], [1, 1, 1, 1], 100.0)
    (threshold,) = choose_thresholds([first, last], 0.75)
    assert serve([first, last], [threshold]).shares == (0.75, 0.25)
    (threshold,) = choose_thresholds([first, last], 1.0)
    assert serve([first, last], [threshold]).shares == (0.5, 0.5)
    never = stage("never", [0, 0], [0.5, 0.5], 1.0)
    assert choose_thresholds([never, stage("last", [1, 1], [1, 1], 9.0)], 1.0) == (np.inf,)


def test_the_curve_begins_small_ends_large_and_random_spends_as_much():
    small = stage("small", [1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], 1.0)
    large = stage("large", [1, 1, 1, 1], [1, 1, 1, 1], 11.0)
    (_, none, random_none), (_, half, random_half), (_, all_, _) = curve(small, large, (0.0, 0.5, 1.0))
    assert (none.right.mean(), half.right.mean(), all_.right.mean()) == (0.5, 1.0, 1.0)
    assert random_none == 0.5
    assert half.usd.mean() == 6.5
    assert random_half == pytest.approx(0.5 + 0.5 * 0.55)  # 6.5 = 1 + 0.55 · 10
    assert all_.usd.mean() == 12.0


def test_the_linear_model_and_its_neighbours_learn():
    model = train_linear(TEXTS, LABELS, 2)
    chances = np.exp([model.log_chances(text) for text in ("my card has not arrived", "forgot the pin")])
    assert chances.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert chances.argmax(axis=1).tolist() == [0, 1]
    shares = Nearest(model, TEXTS, LABELS, 2).shares("card sent")
    assert shares.argmax() == 0
    assert shares.sum() == pytest.approx(1)


def test_likelihoods_from_shared_pages_are_those_of_the_whole_text():
    names = ("card_arrival", "change_pin")
    embedded = Embedded(str(GOLDEN / "qwen2"), names, Split(TEXTS, LABELS), 2, 1)
    questions = ("where is the card", "pin")
    found = [embedded.log_likelihoods(question, (1, 0)) for question in questions]
    model = load_model(str(GOLDEN / "qwen2"))
    scorer = Scorer(model, 128, "int8", 1, "q8", "q8")
    for question, likelihoods in zip(questions, found, strict=True):
        own = model.tokenizer.encode(f" {question}\n", add_bos=False)
        for label, value in zip((1, 0), likelihoods, strict=True):
            prefix = embedded._prefixes[label].ids
            ids = [*map(int, prefix), *own]
            logits = np.concatenate([rows for _, rows in scorer.logits(ids)]).astype(np.float64)
            chosen = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            wanted = sum(chosen[len(prefix) - 1 + i, token] for i, token in enumerate(own))
            assert value == pytest.approx(wanted, abs=1e-3)


def test_no_test_row_is_learned_from(tmp_path):
    folder = tmp_path / "banking77"
    folder.mkdir()
    for part, num in (("train", NUM_VALIDATION + 500), ("test", 20)):
        with (folder / f"{part}.csv").open("w", newline="") as out:
            rows = csv.writer(out)
            rows.writerow(["text", "category"])
            rows.writerows([f"{part} {i}", f"intent {i % 4}"] for i in range(num))
    found = load_intents(tmp_path, "banking77")
    assert (len(found.train), len(found.validation), len(found.test)) == (500, NUM_VALIDATION, 20)
    assert not set(found.train.texts) & set(found.validation.texts)
    assert all(text.startswith("test") for text in found.test.texts)
    assert len(found.limited(5).test) == 5
    clinc = tmp_path / "clinc150"
    clinc.mkdir()
    rows = {part: [[f"{part} {i}", "a" if i % 2 else "b"] for i in range(4)] for part in ("train", "val", "test")}
    (clinc / "data_full.json").write_text(json.dumps({**rows, "oos_test": [["x", "oos"]]}))
    assert load_intents(tmp_path, "clinc150").names == ("a", "b")

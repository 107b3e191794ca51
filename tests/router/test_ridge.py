"""Ridge regression: leave-one-out predictions are those of fits without the row; primal and dual blocks agree."""

import numpy as np
import pytest

from farthing.models.grams import grams, sparse
from farthing.router.blocks import form_block, text_block
from farthing.router.ridge import best_fit, fit


def test_left_out_predictions_are_those_of_refits() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.standard_normal((25, 6)), rng.standard_normal((25, 2))
    found = fit([features @ features.T], [0.7], targets, 3.0)
    gram = 0.7 * features @ features.T
    for row in range(25):
        rest = np.delete(np.arange(25), row)
        dual = np.linalg.solve(gram[np.ix_(rest, rest)] + 3 * np.eye(24), targets[rest] - targets.mean(axis=0))
        np.testing.assert_allclose(found.left_out[row], targets.mean(axis=0) + gram[row, rest] @ dual, atol=1e-9)


def test_the_penalty_that_predicts_best_is_chosen() -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((80, 40))
    gram = features @ features.T
    noise = rng.standard_normal((80, 1))
    signal = features[:, :1] * 3
    assert best_fit([gram], [[1.0]], noise, [1e4, 1e-4]).penalty == 1e4
    assert best_fit([gram], [[1.0]], signal, [1e4, 1e-4]).penalty == 1e-4


def test_only_differences_between_models_count_in_the_loss() -> None:
    rng = np.random.default_rng(2)
    gram = np.eye(30)
    both = np.repeat(rng.standard_normal((30, 1)), 2, axis=1)  # two models, always equally good
    assert fit([gram], [1.0], both, 1.0).loss == pytest.approx(0, abs=1e-20)


def test_weights_of_a_text_block_give_the_gram_matrix_product() -> None:
    texts = sparse(
        [grams(text) for text in ("a red rose", "the red judge", "a judge of the rose", "the red rose")], "words"
    )
    block = text_block(texts)
    rows = block.rows(texts)
    dual = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(block.apply(texts, block.weights(rows, dual)), rows @ rows.T @ dual, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


def test_a_text_of_unknown_words_adds_nothing() -> None:
    texts = sparse([grams("red rose"), grams("red judge")], "words")
    block = text_block(texts)
    weights = block.weights(block.rows(texts), np.ones((2, 1)))
    assert block.apply(sparse([grams("zebra quagga")], "words"), weights).tolist() == [[0.0]]


def test_random_cosines_stand_for_a_smooth_likeness() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 5)) * [1, 10, 0.1, 1, 0]  # the last never varies
    block = form_block(values, rng)
    rows = block.rows(values)
    standard = np.clip((values - block.center) * block.scale, -3, 3)
    distances = ((standard[:, None] - standard[None]) ** 2).sum(axis=2)
    assert np.abs(rows @ rows.T - np.exp(-distances / 8)).mean() < 0.05
    assert block.scale[4] == 0

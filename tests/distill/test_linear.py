"""The linear stage learns, and the same seed gives the same weights."""

import numpy as np
import pytest

from farthing.distill.linear import train_linear
from farthing.errors import InvalidRequest
from tests.distill.tiny import TEXTS


def test_it_learns_and_repeats() -> None:
    texts = [f"{text} {i}" for i in range(8) for text in TEXTS]
    labels = np.array([i % len(TEXTS) for i in range(len(texts))])
    model = train_linear(texts, labels, len(TEXTS))
    found = model.probabilities([text + " please" for text in TEXTS])
    assert found.argmax(axis=1).tolist() == [*range(len(TEXTS))]
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(model.weights, train_linear(texts, labels, len(TEXTS)).weights)
    assert model.probabilities([]).shape == (0, len(TEXTS))


def test_nothing_to_learn_from_is_told() -> None:
    with pytest.raises(InvalidRequest, match="0 texts"):
        train_linear([], np.zeros(0, np.int64), 2)

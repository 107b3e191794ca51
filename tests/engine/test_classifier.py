"""A classifier says what transformers says, whatever stands beside a text, and tells what it cannot take."""

import json
from itertools import count

import numpy as np
import pytest

from farthing import kernels
from farthing.engine.classifier import Classifier, ClassifierConfig, log_probabilities
from farthing.errors import CapacityError, InvalidRequest
from farthing.models import Model, load_model
from tests.models.small import GOLDEN

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")


def model_of(family: str) -> Model:
    return load_model(GOLDEN / f"classifier_{family}")


@pytest.mark.parametrize("isa", [*kernels.instruction_sets(), "reference"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, isa: str) -> None:
    with np.load(GOLDEN / f"classifier_{family}" / "golden.npz") as golden:
        texts = json.loads(str(golden["texts"]))
        config = ClassifierConfig(num_threads=2, product="f32", kv="f32", isa=isa)
        classifier = Classifier(model_of(family), config)
        ids = classifier.encode_all(texts)
        for i, found in enumerate(ids):
            expected = golden[f"ids_{i}"].tolist()
            assert found == (expected[:-1] if family == "qwen3" else expected)  # whose padding is the end token
        expected_logits = np.stack([golden[f"logits_{i}"] for i in range(len(texts))])
    np.testing.assert_allclose(classifier.classify(ids), expected_logits, atol=2e-5)


def test_parts_of_a_long_text_and_many_short_ones() -> None:
    model = model_of("qwen3")
    rng = np.random.default_rng(3)
    texts = [rng.integers(3, 300, n).tolist() for n in (1, 511, 5, 512, 16, 17, 2)]
    whole = Classifier(model, ClassifierConfig(num_threads=1, max_num_batched_tokens=2048)).classify(texts)
    for most in (1, 7, 64):
        parts = Classifier(model, ClassifierConfig(num_threads=2, max_num_batched_tokens=most))
        np.testing.assert_array_equal(parts.classify(texts), whole)
    assert parts.stats().num_texts == len(texts)
    assert parts.stats().num_tokens == sum(map(len, texts))
    assert parts.stats().num_steps == 1 + 8 + 1 + 8 + 1


def test_no_text_is_no_work() -> None:
    classifier = Classifier(model_of("llama"), ClassifierConfig(num_threads=1))
    assert classifier.classify([]).shape == (0, 5)
    assert classifier.stats().num_steps == 0


def test_seconds_are_the_clocks() -> None:
    clock = count(0, 1_000_000_000)
    classifier = Classifier(model_of("llama"), ClassifierConfig(num_threads=1), clock_ns=lambda: next(clock))
    classifier.classify([[3, 4], [5]])
    assert classifier.stats().busy_s == 1


@pytest.mark.parametrize(
    ("texts", "error", "said"),
    [
        ([[3], []], InvalidRequest, "text 1 has no tokens"),
        ([[3], [300]], InvalidRequest, "0 to 299"),
        ([[-1]], InvalidRequest, "0 to 299"),
        ([[3]] * 2 + [[4] * 513], CapacityError, "text 2 has 513 tokens"),
    ],
)
def test_what_cannot_be_classified(texts: list[list[int]], error: type[Exception], said: str) -> None:
    classifier = Classifier(model_of("llama"), ClassifierConfig(num_threads=1))
    with pytest.raises(error, match=said):
        classifier.classify(texts)
    assert classifier.classify([[4] * 512]).shape == (1, 5)


@pytest.mark.parametrize(
    "more", [{"num_threads": 0}, {"num_threads": 257}, {"max_num_batched_tokens": 0}, {"product": "x"}, {"kv": "tq4"}]
)
def test_settings_out_of_range(more: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(more))):
        ClassifierConfig(**more)  # type: ignore[arg-type]


def test_log_probabilities_sum_to_one() -> None:
    logits = np.array([[1e4, 0, -1e4], [0, 0, 0]], np.float32)
    assert np.exp(log_probabilities(logits)).sum(axis=1) == pytest.approx([1, 1])

"""Law 1 for classifiers: what a text gets is bit for bit what it gets alone, a token at a time, on the whole plan."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing import kernels
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.models import Model, load_model
from tests.laws.test_same_answer_native import Naive
from tests.models.small import GOLDEN

CASES = [("llama", "q8_0", "int8"), ("qwen3", "q4_0", "int8"), ("gemma3_text", None, "f32"), ("qwen2", None, "f32")]
IDS = st.lists(st.integers(3, 299), min_size=1, max_size=40)


@lru_cache(maxsize=1)
def model_of(family: str, weights: str | None) -> Model:
    return load_model(GOLDEN / f"classifier_{family}", weights=weights)


@pytest.mark.parametrize(("family", "weights", "product"), CASES)
@settings(deadline=None, max_examples=12)
@given(texts=st.lists(IDS, min_size=1, max_size=6), most=st.integers(1, 64), threads=st.integers(1, 2))
def test_a_text_gets_the_same_in_any_company(family, weights, product, texts, most, threads):
    model = model_of(family, weights)
    config = ClassifierConfig(num_threads=threads, max_num_batched_tokens=most, product=product)
    together = Classifier(model, config).classify(texts)
    naive = Naive(model, product, 40, kv=config.kv)
    for text, found in zip(texts, together, strict=True):
        for position, token in enumerate(text):
            alone = naive.logits(token, position)[0]
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@settings(deadline=None, max_examples=5)
@given(texts=st.lists(IDS, min_size=1, max_size=6))
def test_native_code_is_near_the_reference(isa, texts):
    found, expected = (
        Classifier(model_of("qwen3", None), ClassifierConfig(isa=name, product="f32", kv="f32")).classify(texts)
        for name in (isa, "reference")
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)

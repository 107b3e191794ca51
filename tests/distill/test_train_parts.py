"""What needs no torch: recipes, samples, batches, variants of texts, the line of progress."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.distill.augment import variants
from farthing.distill.batches import epoch_batches, length_batches, steps_per_epoch
from farthing.distill.progress import Point, Progress
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample, SparseTargets, check_samples, with_second_teacher
from farthing.errors import InvalidRequest
from tests.distill.tiny import TEXTS

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=200)


@settings(deadline=None)
@given(lengths=lengths, size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_an_epoch_has_every_sample_once(lengths, size, epoch):
    batches = epoch_batches(lengths, size, 7, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == steps_per_epoch(len(lengths), size)
    assert batches == epoch_batches(lengths, size, 7, epoch)
    assert sorted(i for batch in length_batches(lengths, size) for i in batch) == list(range(len(lengths)))


def test_batches_hold_little_padding():
    lengths = [1 + i % 37 for i in range(2000)]
    padded = sum(len(b) * max(lengths[i] for i in b) for b in epoch_batches(lengths, 16, 0, 0))
    assert padded < 1.1 * sum(lengths)
    assert epoch_batches(lengths, 16, 0, 0) != epoch_batches(lengths, 16, 0, 1)
    assert epoch_batches(lengths, 16, 0, 0) != epoch_batches(lengths, 16, 1, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0}, {"kl": "both"}, {"temperature": -1}, {"warmup": 1}, {"lora_targets": ("score",)},
     {"epochs": None}, {"minutes": 0}, {"ce_weight": 0}, {"batch_size": 0}, {"jsd_beta": 1}],
)  # fmt: skip
def test_a_recipe_that_cannot_be(wrong):
    with pytest.raises(InvalidRequest, match=f"{next(iter(wrong))}|no end"):
        Recipe(**wrong)


def test_samples_that_do_not_fit_the_model(rows):
    good = Sample((1, 2), 1)
    check_samples([good], "training", 2, 10)
    for bad in (Sample((), 1), Sample((1, 10), 1), Sample((1,)), Sample((1,), 2), Sample((1,), teacher=rows(1, 3)[0])):
        with pytest.raises(InvalidRequest, match="sample 1"):
            check_samples([good, bad], "training", 2, 10)
    with pytest.raises(InvalidRequest, match="no sample"):
        check_samples([], "held out", 2, 10)


def test_texts_that_do_not_fit_the_model(rows):
    targets = SparseTargets(rows(2, 3).astype("int32"), rows(2, 3), rows(2))
    check_samples([Sample((1, 2, 3), num_prompt_tokens=1, teacher=targets)], "training", None, 10)
    for bad in (
        Sample((1, 2)),
        Sample((1, 2), num_prompt_tokens=2),
        Sample((1, 2), num_prompt_tokens=1, teacher=targets),
    ):
        with pytest.raises(InvalidRequest, match="sample 0"):
            check_samples([bad], "training", None, 10)


def test_two_teachers_are_averaged():
    logits = np.array([3.0, 3.0, -1e9], np.float32)
    [mean] = with_second_teacher([Sample((1,), teacher=logits)], np.array([[0.0, 0.5, 0.5]], np.float32))
    assert np.exp(mean.teacher).tolist() == pytest.approx([0.25, 0.5, 0.25])
    [other] = with_second_teacher([mean], np.array([[1.0, 0.0, 0.0]], np.float32), share=1.0)
    assert other.teacher.argmax() == 0


@pytest.fixture
def rows():
    return lambda *shape: np.zeros(shape, np.float32)


def test_variants_are_new_and_repeatable():
    made = variants(TEXTS, 300, seed=3)
    assert len(made) == len({*made}) == 300
    assert not {*made} & {*TEXTS}
    assert made == variants(TEXTS, 300, seed=3)
    assert made != variants(TEXTS, 300, seed=4)
    assert all(text.strip() for text in made)


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=4))
def test_variants_of_anything(texts):
    assert len(variants(texts, 5)) <= 5


def test_a_better_point():
    worse, better = Point(1, 0.5, 0.8, 1.0), Point(2, 0.9, 0.9, 1.0)
    assert better.is_better_than(worse)
    assert not worse.is_better_than(better)
    assert Point(3, 0.4, 0.9, 1.0).is_better_than(better)
    assert Point(3, 0.4, None, 1.0).is_better_than(Point(2, 0.5, None, 1.0))
    assert not better.is_better_than(better)


def test_the_line_says_loss_and_time_left():
    point = Point(10, 0.5, 0.9, 1.0)
    line = Progress(12, 100, 0.75, 24000, 12.0, 3725.0, point, point).line()
    assert line == "step 12/100 · loss 0.7500 · held out: loss 0.5000, accuracy 90.00% · 2,000 tokens/s · 1:02:05 left"

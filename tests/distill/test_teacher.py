"""The teacher's answers: as the engine computes them, compact, and the same however often a collection was killed."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farthing.distill.samples import Sample, SparseTargets
from farthing.distill.teacher import TeacherSettings, collect
from farthing.engine.classifier import Classifier, ClassifierConfig
from farthing.errors import CorruptModel, InvalidRequest
from farthing.models import Model, load_model
from farthing.report.score import Scorer
from tests.distill.tiny import TEXTS, write_tiny

ONE = TeacherSettings(num_threads=1)  # beside other tests, threads that wait for each other are the slow part


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny(tmp_path_factory.mktemp("a") / "labels", labels=["a", "b", "c"]))


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_tiny(tmp_path_factory.mktemp("b") / "text"))


def texts(model: Model, num: int = 90) -> list[Sample]:
    encoded = [model.tokenizer.encode(TEXTS[i % len(TEXTS)] + " x" * (i % 7)) for i in range(num)]
    return [Sample(tuple(ids), num_prompt_tokens=1 + i % 3) for i, ids in enumerate(encoded)]


def test_labels_are_what_the_classifier_says(classifier: Model, tmp_path: Path) -> None:
    samples = [replace(sample, label=0) for sample in texts(classifier)]
    found = collect(classifier, samples, tmp_path / "t", ONE)
    logits = Classifier(classifier, ClassifierConfig(1, product="f32")).classify([s.token_ids for s in samples])
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for sample, row in zip(found, expected, strict=True):
        assert isinstance(sample.teacher, np.ndarray)
        np.testing.assert_allclose(sample.teacher, row, atol=2e-3)
    num_tokens = sum(len(sample.token_ids) for sample in samples)
    assert os.path.getsize(tmp_path / "t") / num_tokens <= 300


def test_texts_have_the_likeliest_tokens_and_the_rest(writer: Model, tmp_path: Path) -> None:
    long = Sample(tuple(writer.tokenizer.encode(" ".join(TEXTS * 8))[:250]), num_prompt_tokens=200)
    samples = [*texts(writer, 20), long]
    found = collect(writer, samples, tmp_path / "t", replace(ONE, num_tokens=5))
    scorer = Scorer(writer, 250, num_threads=1)
    for sample in found:
        assert isinstance(sample.teacher, SparseTargets)
        rows = [row for _, part in scorer.logits(sample.token_ids[:-1], sample.num_prompt_tokens - 1) for row in part]
        probabilities = np.exp(np.array(rows, np.float64))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        assert len(rows) == len(sample.teacher.ids) == len(sample.token_ids) - sample.num_prompt_tokens
        kept = np.take_along_axis(probabilities, sample.teacher.ids.astype(np.int64), axis=1)
        np.testing.assert_allclose(np.exp(sample.teacher.log_probs), kept, rtol=0.01)
        np.testing.assert_allclose(kept, -np.sort(-probabilities, axis=1)[:, :5], rtol=1e-3)
        assert sample.teacher.tail_log_mass is not None
        np.testing.assert_allclose(np.exp(sample.teacher.tail_log_mass), 1 - kept.sum(axis=1), rtol=0.02)


def test_the_default_is_within_300_bytes_a_token(writer: Model, tmp_path: Path) -> None:
    samples = texts(writer)
    num_rows = sum(len(sample.token_ids) - sample.num_prompt_tokens for sample in samples)
    collect(writer, samples, tmp_path / "top", ONE)
    collect(writer, samples, tmp_path / "drawn", replace(ONE, num_tokens=70, is_drawn=True))
    assert os.path.getsize(tmp_path / "top") <= 300 * num_rows + 1000
    assert os.path.getsize(tmp_path / "drawn") <= 300 * num_rows + 1000
    with pytest.raises(InvalidRequest, match="allowed: 1 to 49"):
        replace(ONE, num_tokens=50)


def test_drawn_tokens_have_the_teachers_mean(writer: Model, tmp_path: Path) -> None:
    sample = Sample(tuple(writer.tokenizer.encode(TEXTS[0])), num_prompt_tokens=3)
    [top] = collect(writer, [sample], tmp_path / "top", replace(ONE, num_tokens=10))
    assert isinstance(top.teacher, SparseTargets)
    counts = np.zeros(10)
    settings = replace(ONE, num_tokens=50, is_drawn=True)
    for drawn in collect(writer, [sample] * 60, tmp_path / "drawn", settings):
        assert isinstance(drawn.teacher, SparseTargets)
        assert drawn.teacher.tail_log_mass is None
        np.testing.assert_allclose(np.exp(drawn.teacher.log_probs).sum(axis=1), 1, rtol=1e-5)
        counts += [(drawn.teacher.ids[0] == id).mean() for id in top.teacher.ids[0]]
    np.testing.assert_allclose(counts / 60, np.exp(top.teacher.log_probs[0]), atol=0.02)


@pytest.mark.parametrize("kind", ["classifier", "writer"])
def test_a_killed_collection_goes_on(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: Model = request.getfixturevalue(kind)
    samples = texts(model)
    collect(model, samples, tmp_path / "whole", ONE)
    whole = (tmp_path / "whole").read_bytes()
    for size in (0, 60, len(whole) // 3, len(whole) - 1, len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        again = collect(model, samples, tmp_path / "cut", ONE)
        assert (tmp_path / "cut").read_bytes() == whole
        assert len(again) == len(samples)


def test_a_file_of_others_is_refused(classifier: Model, writer: Model, tmp_path: Path) -> None:
    samples = texts(classifier)
    collect(classifier, samples, tmp_path / "t", ONE)
    other = load_model(write_tiny(tmp_path / "other", labels=["a", "b", "c"], seed=1))
    with pytest.raises(InvalidRequest, match="another teacher"):
        collect(other, samples, tmp_path / "t", ONE)
    with pytest.raises(InvalidRequest, match="other texts"):
        collect(classifier, samples[1:], tmp_path / "t", ONE)
    collect(writer, samples, tmp_path / "w", ONE)
    with pytest.raises(InvalidRequest, match="other settings"):
        collect(writer, samples, tmp_path / "w", replace(ONE, num_tokens=3))


def test_a_damaged_file_is_told(classifier: Model, tmp_path: Path) -> None:
    samples = texts(classifier)
    collect(classifier, samples, tmp_path / "t", ONE)
    whole = bytearray((tmp_path / "t").read_bytes())
    for place, match in (
        (2, "holds no answers"),
        (20, "damaged|other|another"),
        (len(whole) - 3, "record 89 is damaged"),
    ):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        (tmp_path / "d").write_bytes(damaged)
        with pytest.raises((CorruptModel, InvalidRequest), match=match):
            collect(classifier, samples, tmp_path / "d", ONE)
    (tmp_path / "d").write_bytes(b"something else entirely, and long enough to be a file of some kind" * 9)
    with pytest.raises(CorruptModel, match="no answers of a teacher"):
        collect(classifier, samples, tmp_path / "d", ONE)

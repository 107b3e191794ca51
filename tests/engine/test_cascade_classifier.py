"""A cascade's folder opens as something that gives labels, from texts and from token ids; what does not fit is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from farthing.engine.cascade_classifier import CascadeClassifier, open_cascade
from farthing.engine.classifier import Classifier, ClassifierConfig, log_probabilities
from farthing.engine.labelling import Prompt, cut
from farthing.engine.open_labeller import open_labeller
from farthing.errors import CapacityError, CorruptModel, InvalidRequest, ModelNotFound
from farthing.models.cascade_file import Point
from tests.engine.cascades import KNOWN, LABELS, MAX_TOKENS, POINTS, write_folder
from tests.models.small import GOLDEN

CONFIG = ClassifierConfig(num_threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("cascade") / "intents")


def prompts_of(cascade: CascadeClassifier, texts: list[str]) -> list[Prompt]:
    return [Prompt(ids, text) for ids, text in zip(cascade.encode_all(texts), texts, strict=True)]


def test_it_opens_by_its_folder_and_by_its_slot(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "0001").symlink_to(folder)
    (tmp_path / "current").write_text("0001\n")
    for path in (folder, tmp_path):
        cascade = open_labeller(path, CONFIG)
        assert isinstance(cascade, CascadeClassifier)
        assert (cascade.name, cascade.labels) == ("intents", LABELS)
        assert cascade.stages == ("linear", "student", "teacher")
        assert cascade.is_sound("a")
    cheapest = open_labeller(folder, CONFIG, point="cheapest")
    assert cheapest.stages == ("linear", "student")
    assert cheapest.weight_bytes < cascade.weight_bytes
    cheapest.warm_up()
    plain = open_labeller(GOLDEN / "classifier_llama", CONFIG)
    assert isinstance(plain, Classifier)
    assert plain.stages == ()


def test_what_is_known_is_answered_by_the_linear_model(folder: Path) -> None:
    cascade = open_cascade(folder, CONFIG)
    before = cascade.stats()
    found = cascade.label(prompts_of(cascade, [*KNOWN]))
    assert found.logs.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    assert found.stages.tolist() == [0] * 5
    np.testing.assert_allclose(np.exp(found.logs).sum(axis=1), 1, rtol=1e-5)
    stats = cascade.stats()
    assert stats.num_steps == before.num_steps
    assert stats.num_texts == 5
    assert stats.num_tokens == sum(map(len, cascade.encode_all(KNOWN)))
    assert stats.busy_s * 1e9 >= found.times_ns.sum() > 0
    assert cascade.label([]).logs.shape == (0, 5)


def test_token_ids_are_read_as_their_text(folder: Path) -> None:
    cascade = open_cascade(folder, CONFIG)
    prompts = prompts_of(cascade, [*KNOWN, "something else", "Ich habe meine Karte verloren"])
    by_text, by_ids = cascade.label(prompts), cascade.label([Prompt(prompt.token_ids) for prompt in prompts])
    np.testing.assert_array_equal(by_text.logs, by_ids.logs)
    assert by_text.stages.tolist() == by_ids.stages.tolist()
    control = cascade.model.tokenizer.after
    assert np.isfinite(cascade.label([Prompt(control)]).logs).all()


def test_long_texts_are_cut_as_they_were_measured(folder: Path) -> None:
    """For the student and the teacher; both its length and its tokens are told as they are."""
    last = Point(((), (0.0,)), (None,))
    cascade = open_cascade(with_point(folder, last), CONFIG)
    [prompt] = prompts_of(cascade, ["and so on " * 20])
    assert len(prompt.token_ids) > MAX_TOKENS
    student = Classifier(cascade.model, CONFIG)
    expected = log_probabilities(student.classify([cut(prompt.token_ids, MAX_TOKENS)]))
    np.testing.assert_allclose(cascade.label([prompt]).logs, expected, atol=1e-6)
    too_long = Prompt([5] * (cascade.max_len + 1), "x")
    with pytest.raises(CapacityError, match="shorten it"):
        cascade.label([too_long])
    for ids in ([], [300], [-1]):
        with pytest.raises(InvalidRequest):
            cascade.label([Prompt(ids, "x")])


def with_point(folder: Path, point: Point) -> Path:
    copy = folder.with_name("other")
    shutil.rmtree(copy, ignore_errors=True)
    return write_folder(copy, points=POINTS | {"best": point})


def test_what_does_not_fit_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="leave weights out"):
        open_labeller(folder, CONFIG, weights="q8_0")
    with pytest.raises(InvalidRequest, match="allowed: best, cheapest"):
        open_labeller(folder, CONFIG, point="dearest")
    with pytest.raises(InvalidRequest, match="has no labels"):
        open_labeller(GOLDEN / "llama", CONFIG)

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    for stage, said in (("linear.npz", "cannot be read"), ("student", "farthing distill"), ("teacher", "distill")):
        path = damaged(f"without-{stage}")
        shutil.rmtree(path / stage) if (path / stage).is_dir() else (path / stage).unlink()
        with pytest.raises(ModelNotFound, match=f"{stage}.*{said}"):
            open_labeller(path, CONFIG)
    path = damaged("half")
    weights = path / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CorruptModel, match="truncated or corrupt"):
        open_labeller(path, CONFIG)
    assert open_labeller(path, CONFIG, point="cheapest").is_sound("a")  # which has no teacher
    path = damaged("other-labels")
    document = json.loads((path / "cascade.json").read_text())
    (path / "cascade.json").write_text(json.dumps(document | {"labels": document["labels"][::-1]}))
    with pytest.raises(CorruptModel, match="has other labels"):
        open_labeller(path, CONFIG)


def test_a_stage_without_numbers_is_not_sound(folder: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "nan"))
    weights = path / "teacher" / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-64:] = np.full(32, 0x7FC0, np.uint16).tobytes()  # of the last tensor: NaN in bfloat16
    weights.write_bytes(raw)
    assert not open_cascade(path, CONFIG).is_sound("a")
    assert open_cascade(path, CONFIG, "cheapest").is_sound("a")

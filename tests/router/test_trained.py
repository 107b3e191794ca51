"""A router from labelled rows to a file and back, with two models and with three."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal
from farthing.router.encode import encode_prompts
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained
from tests.router.rows import labelled

TEST = labelled(300, seed=3)


@pytest.fixture(scope="module")
def trained() -> Trained:
    found = calibrate(train(labelled(400, seed=1)), labelled(500, seed=2), Goal("share", 0.9), "route")
    return calibrate(found, labelled(500, seed=2), Goal("share", 0.9), "cascade")


def test_a_router_keeps_its_goal_for_less_than_the_large_model(trained) -> None:
    chosen = np.array([trained.models.index(trained.decide(prompt).model) for prompt in TEST.prompts])
    quality = TEST.quality[np.arange(len(TEST)), chosen].mean()
    assert quality > 0.88 * TEST.quality[:, 1].mean()
    assert 0.2 < chosen.mean() < 0.7


def test_a_cascade_does_better_than_a_guess(trained) -> None:
    p_right = trained.p_right(TEST.prompts, TEST.answers)
    escalated = trained.escalates(p_right)
    wrong = TEST.quality[:, 0] == 0
    assert escalated[wrong].mean() > escalated[~wrong].mean() + 0.5


def test_a_decision_says_why(trained) -> None:
    decision = trained.decide("Say what the judge and the plea and the tort and the appeal have to do with 3 and 4?")
    assert decision.model == "model-1"
    assert sum(decision.parts.values()) == pytest.approx(decision.quality["model-1"] - decision.quality["model-0"])
    assert set(decision.topic) & {"judge", "statute", "appeal", "tort", "clause", "verdict", "counsel", "plea"}


def test_the_file_gives_back_the_same_router(trained, tmp_path: Path) -> None:
    trained.save(tmp_path / "router.safetensors")
    again = Trained.load(tmp_path / "router.safetensors")
    for prompt, answer in zip(TEST.prompts[:40], TEST.answers[:40], strict=True):
        assert again.decide(prompt) == trained.decide(prompt)
        assert again.p_right([prompt], [answer]) == trained.p_right([prompt], [answer])
    assert again.proven == trained.proven
    assert again.curves == trained.curves
    assert again.prices == trained.prices
    assert (again.models, again.costs, again.topic_words) == (trained.models, trained.costs, trained.topic_words)
    signals = trained.signals(encode_prompts(TEST.prompts))
    for name, values in again.signals(encode_prompts(TEST.prompts)).items():
        assert (values == signals[name]).all()
        assert (again.base.edges[name] == trained.base.edges[name]).all()
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "router.safetensors").read_bytes()


def test_training_twice_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(labelled(100, seed=1)).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_three_models_share_the_work(tmp_path: Path) -> None:
    rows = labelled(900, seed=1, num_models=3)
    found = calibrate(train(rows.take(np.arange(400))), rows.take(np.arange(400, 900)), Goal("share", 0.85), "route")
    found.save(tmp_path / "three")
    again = Trained.load(tmp_path / "three")
    assert again.decide(TEST.prompts[0]) == found.decide(TEST.prompts[0])
    chosen = [again.decide(prompt).model for prompt in TEST.prompts]
    assert len(set(chosen)) >= 2
    assert found.proven["route"].cost < 0.8 * rows.costs[-1]


def test_what_a_router_cannot_do_it_says(trained) -> None:
    bare = train(replace(labelled(60, seed=1), answers=None))
    with pytest.raises(InvalidRequest, match="no threshold for route: it is not calibrated"):
        bare.decide("prompt")
    with pytest.raises(InvalidRequest, match="without the first model's answers"):
        bare.p_right(["a"], ["b"])
    with pytest.raises(InvalidRequest, match="mode is cascade; this router has route"):
        calibrate(bare, labelled(60), Goal("share", 0.9), "cascade")
    with pytest.raises(InvalidRequest, match="rows of model-0, model-1, model-2"):
        calibrate(bare, labelled(60, num_models=3), Goal("share", 0.9), "route")
    with pytest.raises(InvalidRequest, match="needs answers of model-0"):
        calibrate(trained, replace(labelled(60), answers=None), Goal("share", 0.9), "cascade")
    hopeless = calibrate(bare, replace(labelled(60), answers=None), Goal("quality", 0.999), "route")
    with pytest.raises(InvalidRequest, match="no threshold was proven"):
        hopeless.price("route")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"costs": (2.0, 1.0)}, "each above the one before"),
        ({"costs": (1.0,)}, "two or more"),
        ({"models": ("same", "same")}, "every name once"),
        ({"quality": np.full((60, 2), 1.5)}, "outside of 0 to 1"),
        ({"quality": np.ones((60, 3))}, "qualities of shape"),
        ({"answers": ("one",)}, "1 answers to 60 prompts"),
    ],
)
def test_rows_that_contradict_themselves_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        replace(labelled(60), **changes)

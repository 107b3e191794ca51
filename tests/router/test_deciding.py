"""Who decides: a trained file in its three modes, prices and shares in its place, the prior before there are labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal
from farthing.router.config import RouterConfig
from farthing.router.deciding import PriorDecider, TrainedDecider, make_decider
from farthing.router.drafting import Draft
from farthing.router.question import Question
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained
from farthing.upstreams import Chunk
from tests.router.rows import labelled

PROMPTS = [Question(prompt, 1, False) for prompt in labelled(200, seed=5).prompts]
ANSWERS = labelled(200, seed=5).answers or ()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = calibrate(train(labelled(300, seed=1)), labelled(400, seed=2), Goal("share", 0.9), "route")
    found = calibrate(found, labelled(400, seed=2), Goal("share", 0.9), "cascade")
    path = tmp_path_factory.mktemp("file") / "router.safetensors"
    found.save(path)
    return path


def members(file: Path, **settings: object) -> list[int]:
    decider = make_decider(RouterConfig(file=file, **settings), (True, False))  # type: ignore[arg-type]
    return [decider.choose(question).member for question in PROMPTS]


def test_the_files_threshold_decides_and_says_so(file: Path) -> None:
    decider, trained = make_decider(RouterConfig(file=file), (True, False)), Trained.load(file)
    for question in PROMPTS:
        choice = decider.choose(question)
        assert trained.models[choice.member] == trained.decide(question.prompt).model
        gap, sign, needed = choice.why.removeprefix("router: gap ").split()
        assert (sign == ">") == (choice.member == 1)
        assert float(gap) >= float(needed) if choice.member else float(gap) <= float(needed)


def test_a_price_or_a_share_in_its_place(file: Path) -> None:
    assert set(members(file, price=1e9)) == {0}
    assert set(members(file, price=-1e9)) == {1}
    assert set(members(file, share=0.0)) == {0}
    shares = [np.mean(members(file, share=share)) for share in (0.2, 0.5, 1.0)]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert abs(shares[1] - 0.5) < 0.15


def test_a_cascade_judges_as_the_file_does(file: Path) -> None:
    decider, trained = make_decider(RouterConfig(file=file, mode="cascade"), (True, False)), Trained.load(file)
    for question, answer in zip(PROMPTS[:50], ANSWERS, strict=False):
        assert decider.choose(question).is_cascade
        p_right = trained.p_right([question.prompt], [answer])
        verdict = decider.judge(question, Draft([Chunk(answer)]), [])
        assert verdict.is_kept is not bool(trained.escalates(p_right)[0])
        assert verdict.why.endswith(f"p_right {p_right[0]:.2f}")


def test_both_checks_what_the_first_one_answers(file: Path) -> None:
    both = make_decider(RouterConfig(file=file, mode="both"), (True, False))
    for question, member in zip(PROMPTS, members(file), strict=True):
        assert both.choose(question).member == member
        assert both.choose(question).is_cascade is (member == 0)


def test_three_models_and_files_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    three = calibrate(train(labelled(300, 1, 3)), labelled(400, 2, 3), Goal("share", 0.9), "route")
    three.save(tmp_path / "three")
    decider = make_decider(RouterConfig(file=tmp_path / "three"), (True, False, False))
    assert {decider.choose(question).member for question in PROMPTS} > {0}
    for path, settings, said in (
        (tmp_path / "three", {}, "3 models"),
        (tmp_path / "three", {"mode": "cascade"}, "3 models"),
        (file, {"samples": 1}, "without signals"),
        (tmp_path / "none", {}, "cannot be read"),
    ):
        with pytest.raises(Exception, match=said):
            make_decider(RouterConfig(file=path, **settings), (True, False))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="not calibrated"):
        make_decider(RouterConfig(file=tmp_path / "three", mode="cascade"), (True, False, False))
    replace(Trained.load(file), curves={}).save(tmp_path / "bare")
    with pytest.raises(InvalidRequest, match="curve"):
        make_decider(RouterConfig(file=tmp_path / "bare", share=0.5), (True, False))
    with pytest.raises(InvalidRequest, match="local"):
        make_decider(RouterConfig(mode="cascade", min_confidence=0.5), (False, False))
    with pytest.raises(InvalidRequest, match="two upstreams"):
        make_decider(RouterConfig(share=0.5), (True, True, True))


def test_drift_is_told_once_there_is_enough_to_tell(file: Path) -> None:
    decider = TrainedDecider(Trained.load(file), RouterConfig(file=file, drift_window=100), 2)
    for question in PROMPTS[:49]:
        decider.choose(question)
    assert decider.drift() is None
    for question in PROMPTS:
        decider.choose(question)
    found = decider.drift()
    assert found is not None
    assert (found.num_rows, found.alarms) == (100, ())
    for _ in range(100):
        decider.choose(Question("Prove by induction that the sum converges, and not only if n is even.", 1, False))
    found = decider.drift()
    assert found is not None
    assert "log_chars" in found.alarms


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_the_prior_keeps_its_share(share: float, wanted: float) -> None:
    decider = PriorDecider(RouterConfig(share=share, drift_window=100))
    found = [decider.choose(question).member for question in PROMPTS]
    assert abs(np.mean(found[50:]) - wanted) < 0.1
    assert decider.drift() is None

"""Hidden states in a router: what is looked at of them, what they teach a check, and that they belong to one model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import CorruptModel, InvalidRequest
from farthing.router.calibrate import Goal
from farthing.router.config import RouterConfig
from farthing.router.deciding import make_decider
from farthing.router.drafting import Draft
from farthing.router.evaluate import evaluate
from farthing.router.hidden import NUM_DIRECTIONS, Hidden, learn_space
from farthing.router.labelled import Labelled
from farthing.router.question import Question
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained
from farthing.upstreams import Chunk
from tests.router.rows import labelled

WIDTH = 48


def with_hidden(num_rows: int, seed: int) -> Labelled:
    """Answers that look alike whether right or wrong; one column of a state tells, a huge one tells nothing."""
    rows, rng = labelled(num_rows, seed), np.random.default_rng(seed)
    states = rng.normal(0, 1, (num_rows, WIDTH))
    states[:, 7] += np.where(rows.quality[:, 0] > 0, 2.0, -2.0)
    states[:, 8:20] += states[:, 7:8]  # as columns of a model's states do, some move together
    states[:, 30] *= 500
    return replace(rows, answers=("It is so.",) * num_rows, hidden=Hidden("small", states))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return calibrate(train(with_hidden(300, 1)), with_hidden(300, 2), Goal("share", 0.9), "cascade")


def test_a_check_learns_from_them_and_keeps_them_in_its_file(trained: Trained, tmp_path: Path) -> None:
    test, path = with_hidden(300, 3), tmp_path / "router"
    trained.save(path)
    again = Trained.load(path)
    p_right = again.checked(test)[0].p_right
    assert (p_right == trained.checked(test)[0].p_right).all()
    right = test.quality[:, 0] > 0
    assert p_right[right].mean() > p_right[~right].mean() + 0.3
    assert evaluate(again, test).modes[1].mode == "cascade"
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_what_is_not_known_is_as_usual(trained: Trained) -> None:
    test = with_hidden(50, 3)
    assert test.hidden is not None
    assert test.answers is not None
    unknown = trained.p_right(test.prompts, test.answers)
    for states in (np.full((50, WIDTH), np.nan), np.zeros((50, 0)), np.zeros((50, WIDTH + 1))):
        assert (trained.p_right(test.prompts, test.answers, states) == unknown).all()
    known = trained.p_right(test.prompts, test.answers, test.hidden.states)
    assert known.min() < unknown.min() <= unknown.max() < known.max()


def test_they_are_of_one_model_and_needed_where_a_promise_is_made(trained: Trained) -> None:
    rows = with_hidden(100, 4)
    assert rows.hidden is not None
    for other in (None, Hidden("other", rows.hidden.states)):
        with pytest.raises(InvalidRequest, match="looks at small's hidden states, which are missing"):
            calibrate(trained, replace(rows, hidden=other), Goal("share", 0.9), "cascade")
    with pytest.raises(InvalidRequest, match="these rows have no answers"):
        train(replace(rows, answers=None))
    with pytest.raises(InvalidRequest, match="hidden states of 99 prompts; of all 100"):
        replace(rows, hidden=rows.hidden.take(np.arange(99)))
    with pytest.raises(InvalidRequest, match="of shape"):
        Hidden("small", np.full((2, 3), np.inf))
    with pytest.raises(InvalidRequest, match="of 0 prompts; at least"):
        learn_space(rows.hidden.take(np.arange(0)).and_unknown(30))


def test_a_decider_asks_the_model_that_they_are_of(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "router"
    trained.save(path)
    config = RouterConfig(file=path, mode="cascade")
    for are_local, model in (((True, False), "other"), ((False, False), "small")):
        with pytest.raises(InvalidRequest, match="looks at the hidden states of 'small'"):
            make_decider(config, are_local, model)
    decider = make_decider(config, (True, False), "small")
    assert decider.wants_hidden
    assert not make_decider(RouterConfig(mode="cascade", min_confidence=0.5), (True, False), "small").wants_hidden
    test = with_hidden(20, 5)
    assert test.hidden is not None
    for row, prompt in enumerate(test.prompts):
        states = test.hidden.states[row]
        draft = Draft([Chunk("It is so."), Chunk(finish_reason="stop", hidden=tuple(states.tolist()))])
        p_right = trained.p_right([prompt], ["It is so."], states[None])[0]
        assert decider.judge(Question(prompt, 1, False), draft, []).why.endswith(f"p_right {p_right:.2f}")


def test_a_file_whose_parts_do_not_fit_is_refused(trained: Trained, tmp_path: Path) -> None:
    assert trained.hidden is not None
    narrow = replace(trained.hidden, directions=trained.hidden.directions[:, :-1])
    for number, changed in enumerate((replace(trained, hidden=None), replace(trained, hidden=narrow))):
        changed.save(tmp_path / f"{number}")
        with pytest.raises(CorruptModel):
            Trained.load(tmp_path / f"{number}")


@settings(deadline=None)
@given(st.integers(20, 60), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_space_is_the_same_whatever_scale_columns_have(num_rows: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.normal(0, 1, (num_rows, width))
    scales = 10.0 ** rng.integers(-3, 4, width)
    one, other = (learn_space(Hidden("m", values)) for values in (states, states * scales))
    found, scaled = one.project(states), other.project(states * scales)
    assert found.shape == (num_rows, min(width, NUM_DIRECTIONS))
    np.testing.assert_allclose(np.abs(found[:, 0]), np.abs(scaled[:, 0]), atol=2e-2)
    assert abs(found.mean(axis=0)).max() < 1e-3
    assert np.isnan(one.project(np.full((3, width), np.nan))).all()

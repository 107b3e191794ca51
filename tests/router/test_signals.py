"""What a small model's own numbers say, and a check that learned from them."""

from dataclasses import replace
from math import exp, isnan
from pathlib import Path

import numpy as np
import pytest

from farthing.errors import InvalidRequest
from farthing.router.calibrate import Goal
from farthing.router.labelled import Labelled
from farthing.router.signals import SIGNAL_NAMES, agreement, confidence, signals
from farthing.router.train import calibrate, train
from farthing.router.trained import Trained
from farthing.upstreams import TokenLogprob
from tests.router.rows import labelled


def token(logprob: float, *others: float) -> TokenLogprob:
    return TokenLogprob("x", b"x", logprob, tuple(("y", b"y", other) for other in others))


def test_what_is_not_known_is_nan() -> None:
    assert all(map(isnan, signals([], "a", [])))
    found = dict(zip(SIGNAL_NAMES, signals([token(-1.0), token(-3.0)], "a", []), strict=True))
    assert (found["mean_logprob"], found["min_logprob"]) == (-2.0, -3.0)
    assert isnan(found["min_margin"])
    assert isnan(found["agreement"])


def test_margins_are_between_the_two_likeliest() -> None:
    found = signals([token(-0.5, -0.5, -2.5), token(-4.0, -1.0, -1.5)], "a", ["a"])
    assert found[2:].tolist() == [1.25, 0.5, 1.0]
    assert signals([token(float("-inf"))], "a", [])[1] == -30.0


def test_confidence_is_a_geometric_mean() -> None:
    assert confidence([]) is None
    assert confidence([token(-1.0), token(-2.0)]) == pytest.approx(exp(-1.5))


@pytest.mark.parametrize(
    ("answer", "samples", "wanted"),
    [
        ("Paris", ["paris", "Rome"], 0.5),
        ("The answer is 42", ["so the answer is 42", "answer: 41"], 0.5),
        ("one two three four", ["one two"], 1.0),
        ("", [""], 1.0),
        ("a b", ["c d"], 0.0),
    ],
)
def test_agreement(answer: str, samples: list[str], wanted: float) -> None:
    assert agreement(answer, samples) == wanted


def with_signals(num_rows: int, seed: int) -> Labelled:
    """Answers that look alike whether right or wrong; only the log-probabilities tell, and of a tenth nothing does."""
    rows, rng = labelled(num_rows, seed), np.random.default_rng(seed)
    values = np.full((num_rows, len(SIGNAL_NAMES)), np.nan)
    values[:, 0] = np.where(rows.quality[:, 0] > 0, -0.2, -1.5) + rng.normal(0, 0.3, num_rows)
    values[rng.random(num_rows) < 0.1] = np.nan
    return replace(rows, answers=("It is so.",) * num_rows, signals=values)


def test_a_check_learns_from_them_and_keeps_them_in_its_file(tmp_path: Path) -> None:
    trained = train(with_signals(300, 1))
    trained = calibrate(trained, with_signals(300, 2), Goal("share", 0.9), "cascade")
    trained.save(tmp_path / "router.safetensors")
    again, test = Trained.load(tmp_path / "router.safetensors"), with_signals(200, 3)
    assert test.answers is not None
    p_right = again.p_right(test.prompts, test.answers, signals=test.signals)
    assert (p_right == trained.p_right(test.prompts, test.answers, signals=test.signals)).all()
    right = test.quality[:, 0] > 0
    assert p_right[right].mean() > p_right[~right].mean() + 0.3
    blind = again.p_right(test.prompts, test.answers)
    assert np.isfinite(blind).all()
    assert blind[right].mean() - blind[~right].mean() < p_right[right].mean() - p_right[~right].mean()


def test_their_number_is_checked() -> None:
    with pytest.raises(InvalidRequest, match="mean_logprob"):
        replace(labelled(30), signals=np.zeros((30, 2)))
    rows = with_signals(30, 1).take([3, 1])
    assert rows.signals is not None
    assert rows.signals.shape == (2, len(SIGNAL_NAMES))

"""The form of a prompt, and the order that it suggests before any label."""

import numpy as np
import pytest

from farthing.router.structure import NAMES, prior, structure

QUESTION = "Which of the following is NOT a prime?\nA. 2\nB. 3\nC. 9\nD. 11\nAnswer:"


def of(prompt: str, name: str) -> float:
    return float(structure(prompt)[NAMES.index(name)])


def test_options_numbers_and_negation_are_seen() -> None:
    assert of(QUESTION, "num_options") == 4
    assert of(QUESTION, "option_number_share") == 1
    assert of(QUESTION, "is_negated") == 1
    assert of(QUESTION, "log_body_numbers") == 0
    assert of(QUESTION, "asks") == 1


def test_one_lettered_line_is_no_list_of_options() -> None:
    assert of("I met Mr\nA. Smith today", "num_options") == 0


@pytest.mark.parametrize("prompt", ["", " ", "\n\n", "?", "日本語の質問", "A. \nB. ", "x" * 100_000, "\x00\ud7ff"])
def test_every_prompt_has_a_finite_form(prompt: str) -> None:
    form = structure(prompt)
    assert form.shape == (len(NAMES),)
    assert np.isfinite(form).all()


def test_more_to_read_and_more_that_binds_come_first() -> None:
    short = "What is two plus two?"
    plain = "Tom has a red ball, a blue ball, a green ball, a small dog and a big cat in the old garden shed."
    bound = "If Tom has more balls than Ann but not twice the rest, then only after the other half is he before her."
    forms = np.array([structure(text) for text in (short, plain, bound)])
    assert prior(forms).argsort().tolist() == [0, 1, 2]
    assert prior(forms[1]) == prior(forms)[1]

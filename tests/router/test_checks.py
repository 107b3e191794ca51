"""What an answer shows of itself."""

import numpy as np
import pytest

from farthing.router.checks import CHECK_NAMES, checks, final_number

PROMPT = "A hen lays 16 eggs. Tom eats three and sells half of the rest at $2 each. How much does he make in total?"
GOOD = (
    "She has 16 - 3 = <<16-3=13>>13 left.\nHe sells 13 / 2 = <<13/2=6.5>>6.5.\nThat is 6.5 * 2 = $<<6.5*2=13>>13.\n"
    "#### 13"
)


def of(answer: str, name: str, prompt: str = PROMPT) -> float:
    return float(checks(prompt, answer)[CHECK_NAMES.index(name)])


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("#### 1,234", 1234),
        ("The answer is 7.5.", 7.5),
        (r"\boxed{12}", 12),
        ("#### $-3", -3),
        ("forty", None),
        ("#### ", None),
    ],
)
def test_the_final_number(answer: str, number: float | None) -> None:
    assert final_number(answer) == number


def test_a_good_answer_passes() -> None:
    for name in (
        "no_final",
        "is_cut",
        "wrong_calculations",
        "wrong_equations",
        "unused_numbers",
        "unused_words",
        "hedges",
    ):
        assert of(GOOD, name) == 0, name
    assert of(GOOD, "final_is_last") == of(GOOD, "final_is_whole") == of(GOOD, "asks_total") == 1


@pytest.mark.parametrize(
    ("answer", "name", "value"),
    [
        (GOOD.replace("=13>>13 left", "=14>>14 left"), "wrong_calculations", 1),
        (GOOD.removesuffix("\n#### 13"), "no_mark", 1),
        (GOOD[:60], "no_final", 1),
        ("He makes 2 * 5 = <<2*5=10>>10,\nso", "is_cut", 1),
        (GOOD.replace("#### 13", "#### -1"), "final_not_positive", 1),
        (GOOD.replace("#### 13", "#### 99"), "final_is_last", 0),
        ("2 * 3 = <<2*3=6>>6\n#### 6", "unused_numbers", 1),
        ("16 * 17.5 = <<16*17.5=280>>280\n#### 280", "alien_numbers", 1),
        ("However, I cannot know.", "hedges", 1),
    ],
)
def test_what_is_wrong_shows(answer: str, name: str, value: float) -> None:
    assert of(answer, name) == value


@pytest.mark.parametrize(
    "answer", ["", "####", "<<=>>", "<<1/0=3>>", "0" * 30_000, "9" * 400, "<<" + "9" * 70 + "=1>>", "\x00"]
)
@pytest.mark.parametrize("prompt", ["", PROMPT, "half of 0 and " + "9" * 400])
def test_every_answer_has_finite_checks(prompt: str, answer: str) -> None:
    found = checks(prompt, answer)
    assert found.shape == (len(CHECK_NAMES),)
    assert np.isfinite(found).all()

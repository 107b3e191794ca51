"""Arithmetic read and done again."""

import pytest

from farthing.router.arithmetic import equations, evaluate, is_near, numbers


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2+3*4", 14), ("(2+3)*4", 20), ("-3 + 5", 2), ("2 - -1", 3), ("$1,200 / 4", 300), ("3 x 4", 12), ("3×4÷2", 6),
        ("40% * 50", 20), ("16 - 3 - 4", 9), ("100 / (100 / 60 + 1)", 37.5), (".5*4", 2), ("8/2/2", 2), ("1\\*2", 2),
    ],
)  # fmt: skip
def test_values(expression: str, value: float) -> None:
    assert evaluate(expression) == pytest.approx(value)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "2+",
        "1/0",
        "2**9**9",
        "(1",
        "1)",
        "__import__('os')",
        "a+1",
        "1 2",
        "+".join("1" * 100),
        "(" * 5000 + "1",
        "9//2",
    ],
)
def test_what_is_no_arithmetic_has_no_value(expression: str) -> None:
    assert evaluate(expression) is None


def test_numbers_lose_separators_and_full_stops() -> None:
    assert numbers("It cost $1,234.50, not 3. Or .5") == [1234.5, 3, 0.5]


def test_annotated_and_plain_equations_are_found() -> None:
    annotated, plain = equations("So 12 - 4 = <<12-4=8>>8 eggs.\nThen 3 x $5 = $16, and 2 + 2 is four.\nThat is x = 5.")
    assert [(found.value, found.is_wrong) for found in annotated] == [(8, False)]
    assert [(found.value, found.is_wrong) for found in plain] == [(8, False), (16, True)]


def test_rounded_results_are_right_and_negative_ones_are_read() -> None:
    (rounded, negative), _ = equations("<<10/3=3.33>> <<3-5=-2>>")
    assert not rounded.is_wrong
    assert not negative.is_wrong


def test_near_is_relative() -> None:
    assert is_near(1_000_000, 1_000_500)
    assert not is_near(1, 1.01)

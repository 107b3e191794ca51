"""Arithmetic read out of a text and done again: numbers, expressions, "12 - 4 * 2 = 4".

An expression is read by this parser alone, never by the language: what stands in an answer is data.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

__all__ = ["Equation", "equations", "evaluate", "is_near", "numbers"]

MAX_TOKENS = 64
MAX_NUMBER = 1e15  # hundreds of digits are noise, and would overflow
_NUMBER = r"\d[\d,]*(?:\.\d+)?|\.\d+"
_NUMBERS = re.compile(_NUMBER)
_TOKEN = re.compile(rf"\s*(?:({_NUMBER})\s*(%)?|([-+*/()]))")
_ANNOTATED = re.compile(r"<<([^<>=]{1,80})=([^<>=]{1,40})>>")
_TERM = rf"\$?\(*\s*\$?(?:{_NUMBER})\s*%?\s*\)*"
_PLAIN = re.compile(rf"({_TERM}(?:\s*[-+*/]\s*{_TERM})+)[^=<>\d\n]{{0,24}}=\s*\$?\s*(-?\s*(?:{_NUMBER}))")
_SAME = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "\\": " ", "$": " ", "€": " ", "£": " "})
_PLAIN_SIGNS = str.maketrans("×÷", "*/", "\\")
_TIMES = re.compile(r"(?<=[\d)])\s*x\s*(?=[\d($])")


@dataclass(frozen=True)
class Equation:
    expression: str
    value: float  # that the text gives
    computed: float | None  # that the expression has; None where it is none

    @property
    def is_wrong(self) -> bool:
        return self.computed is not None and not is_near(self.computed, self.value, 5e-3)


def numbers(text: str) -> list[float]:
    """Every number, without signs and thousands separators. "3.50." is 3.5."""
    return [_value(match.group()) for match in _NUMBERS.finditer(text)]


def equations(text: str) -> tuple[list[Equation], list[Equation]]:
    """Those annotated as calculations, "<<3*4=12>>", and those that stand in the text itself."""
    annotated = [
        Equation(match[1], _signed(match[2]), evaluate(match[1]))
        for match in _ANNOTATED.finditer(text)
        if _NUMBERS.search(match[2])
    ]
    bare = _TIMES.sub("*", _ANNOTATED.sub("", text).translate(_PLAIN_SIGNS))
    plain = [
        Equation(match[1], _signed(match[2]), evaluate(match[1]))
        for line in bare.split("\n")
        for match in _PLAIN.finditer(line[:500])
    ]
    return annotated, plain


def evaluate(expression: str) -> float | None:
    """The value of + - * / ( ) and percentages; None for everything else, for a division by zero and for overlong."""
    text = _TIMES.sub("*", expression.translate(_SAME)).strip()
    tokens: list[str | float] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) >= MAX_TOKENS:
            return None
        position = match.end()
        tokens.append(_value(match[1]) / (100 if match[2] else 1) if match[1] else match[3])
    try:
        reader = _Reader(iter(tokens))
        value = reader.sum()
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    return value if reader.next is None and isfinite(value) else None


class _Reader:
    """Recursive descent: a sum of products of factors."""

    def __init__(self, tokens: Iterator[str | float]) -> None:
        self._tokens = tokens
        self.next: str | float | None = next(tokens, None)

    def _take(self) -> str | float | None:
        taken, self.next = self.next, next(self._tokens, None)
        return taken

    def sum(self) -> float:
        value = self._product()
        while self.next in ("+", "-"):
            value = value + self._product() if self._take() == "+" else value - self._product()
        return value

    def _product(self) -> float:
        value = self._factor()
        while self.next in ("*", "/"):
            value = value * self._factor() if self._take() == "*" else value / self._factor()
        return value

    def _factor(self) -> float:
        token = self._take()
        if isinstance(token, float):
            return token
        if token == "-":
            return -self._factor()
        if token == "(":
            value = self.sum()
            if self._take() == ")":
                return value
        raise ValueError(token)


def is_near(a: float, b: float, tolerance: float = 1e-3) -> bool:
    return abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))


def _value(digits: str) -> float:
    return min(float(digits.replace(",", "")), MAX_NUMBER)


def _signed(text: str) -> float:
    match = _NUMBERS.search(text)
    assert match is not None, "only called where a number stands"
    return -_value(match.group()) if text.strip().lstrip("$ ").startswith("-") else _value(match.group())

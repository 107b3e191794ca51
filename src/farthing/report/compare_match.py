"""Whether an answer is right: five ways to compare a text with what was expected, and the finding of a choice in it."""

import json
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal, get_args

from farthing.errors import InvalidRequest

__all__ = ["MATCHES", "Match", "check_answer", "find_choice", "is_right", "normalized", "without_thoughts"]

Match = Literal["exact", "normalized", "contains", "number", "regex"]
MATCHES: tuple[Match, ...] = get_args(Match)
TOLERANCE = Decimal("1e-6")  # of numbers, relative to the expected one
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?[$€£]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")


def normalized(text: str) -> str:
    """Without case, punctuation, underscores, and white space but single spaces: "Card_Arrival." is "card arrival"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(letter if letter.isalnum() else " " for letter in folded).split())


def without_thoughts(text: str) -> str:
    """Some models think aloud before they answer; a hosted one's thoughts come apart from its text."""
    return _THOUGHTS.sub("", text, count=1)


def check_answer(answer: str, match: Match) -> None:
    """Raises InvalidRequest for an expected answer that this way of comparing could never find."""
    if match in ("normalized", "contains") and not normalized(answer):
        raise InvalidRequest(f"answer {answer[:60]!r} has neither letters nor digits; compare it with match: exact")
    if match == "number" and (len(_NUMBER.findall(answer)) != 1 or _last_number(answer) is None):
        raise InvalidRequest(f"answer {answer[:60]!r} is not one number, as match: number needs")
    if match == "regex":
        try:
            re.compile(answer)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"answer {answer[:60]!r} is not a regular expression ({error})") from None


def is_right(text: str, answers: Sequence[str], match: Match) -> bool:
    return any(_matches(text.strip(), answer, match) for answer in answers)


def find_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice that a text names; None where it names none or several.

    A text is the choice itself, JSON that holds nothing else (as constrained models write it), or a sentence with it.
    """
    said = normalized(_unwrapped(text))
    by_name = {normalized(choice): choice for choice in choices}
    if said in by_name:
        return by_name[said]
    left, found = f" {said} ", []
    for name in sorted(by_name, key=len, reverse=True):  # a name within a longer one that was found does not count
        if f" {name} " in left:
            found.append(by_name[name])
            left = left.replace(f" {name} ", " | ")
    return found[0] if len(found) == 1 else None


def _matches(text: str, answer: str, match: Match) -> bool:
    if match == "exact":
        return text == answer.strip()
    if match == "normalized":
        return normalized(text) == normalized(answer)
    if match == "contains":
        return f" {normalized(answer)} " in f" {normalized(text)} "
    if match == "regex":
        return re.search(answer, text) is not None
    said, wanted = _last_number(text), _last_number(answer)
    return said is not None and wanted is not None and abs(said - wanted) <= TOLERANCE * abs(wanted)


def _last_number(text: str) -> Decimal | None:
    """Worked answers end with their result."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(re.sub(r"[,$€£]", "", found[-1]).replace("−", "-"))
    except InvalidOperation:
        return None


def _unwrapped(text: str) -> str:
    """The string in a JSON string, or in an object with nothing else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict) and len(value) == 1:
        [value] = value.values()
    return value if isinstance(value, str) else text

"""What an answer shows of itself: a final answer that is there, arithmetic that holds, numbers that have a source.

No reference is used. Checks of arithmetic are 0 for answers that have none, so they do no harm elsewhere.
"""

import re
from collections.abc import Sequence
from math import log1p

import numpy as np
from numpy.typing import NDArray

from farthing.router.arithmetic import Equation, equations, is_near, numbers

__all__ = ["CHECK_NAMES", "checks", "final_number"]

MAX_CHARS = 20_000
_FINAL = re.compile(r"(?:####|\\boxed\{|(?:final )?answer(?: is)?:?)\s*\**\s*\$?\s*(-?[\d,]*\.?\d+)", re.IGNORECASE)
_MARK = re.compile(r"####|\\boxed|\banswer\b", re.IGNORECASE)
_ENDED = re.compile(r"[\d.!?>})\]\"'`*]\s*$")
_HEDGE = re.compile(
    r"\b(?:however|assum\w*|can't|cannot|not possible|impossible|unknown|unclear|mistake|sorry|unsure|round\w*)\b"
    r"|\b(?:but|let's)\b"
)
_VARIABLE = re.compile(r"\blet\b|= *x\b|\bx *=")
_MONEY = re.compile(r"[$€£]|\b(?:dollars?|cents?|costs?|prices?)\b")
_PART = re.compile(r"half|third|quarter|\d/\d|fraction|percent|%")
_COMPARED = re.compile(r"\b(more|less|fewer|older|younger|longer|shorter|times)\b")
_EACH = re.compile(r"\b(each|every|per|a day|a week)\b")
_LEFT = re.compile(r"\b(left|remain\w*|change|still)\b")
_TOTAL = re.compile(r"\b(total|altogether|together|combined)\b")
_TIME = re.compile(r"\b(years?|ages?|hours?|minutes?|miles?|speed)\b")
_SPELLED = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "dozen": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "eighteen": 18, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100, "couple": 2, "twice": 2,
    "double": 2, "thrice": 3, "triple": 3, "half": 0.5, "third": 1 / 3, "fourth": 0.25, "quarter": 0.25, "fifth": 0.2,
}  # fmt: skip
_COMMON = (0.5, 1, 2, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)  # that need no source: days, dozens, percent

CHECK_NAMES = (
    "no_final", "no_mark", "is_cut", "log_chars", "log_lines", "log_calculations", "no_calculation", "log_equations",
    "wrong_calculations", "wrong_equations", "final_is_last", "final_is_whole", "final_in_parts", "final_not_positive",
    "log_final", "final_in_prompt", "final_ratio", "unused_numbers", "unused_share", "unused_words", "alien_numbers",
    "parts_of_things", "log_plus", "log_minus", "log_times", "log_by", "log_operations", "operations_per_number",
    "steps_per_sentence", "log_prompt_numbers", "log_prompt_words", "log_prompt_sentences", "log_prompt_chars",
    "prompt_percent", "prompt_part", "prompt_compares", "prompt_than", "asks_left", "asks_total", "last_plus",
    "last_minus", "last_times", "last_by", "total_by_minus", "left_without_minus", "hedges", "has_variable",
    "prompt_average", "prompt_if", "prompt_each", "prompt_time", "log_prompt_largest", "repeats", "goes_on",
)  # fmt: skip


def final_number(answer: str) -> float | None:
    """The number that the answer gives as its last word, where it marks one."""
    found = _FINAL.findall(answer)
    if not found or not (known := numbers(found[-1])):
        return None
    return -known[0] if found[-1].startswith("-") else known[0]


def checks(prompt: str, answer: str) -> NDArray[np.float64]:
    """In the order of CHECK_NAMES."""
    prompt, answer = prompt[:MAX_CHARS], answer[:MAX_CHARS]
    annotated, plain = equations(answer)
    found = {**_of_format(answer), **_of_arithmetic(prompt, answer, annotated, plain), **_of_prompt(prompt)}
    return np.array([found[name] for name in CHECK_NAMES], np.float64)


def _of_format(answer: str) -> dict[str, float]:
    lower = answer.lower()
    return {
        "no_mark": not _MARK.search(answer), "is_cut": not _ENDED.search(answer),
        "log_chars": log1p(len(answer)), "log_lines": log1p(answer.split("####")[0].strip().count("\n")),
        "hedges": bool(_HEDGE.search(lower)), "has_variable": bool(_VARIABLE.search(lower)),
        "goes_on": "question" in lower or answer.count("####") > 1,
    }  # fmt: skip


def _of_prompt(prompt: str) -> dict[str, float]:
    lower = prompt.lower()
    asked = re.split(r"(?<=[.!?])\s", lower.strip())[-1]
    given = numbers(prompt)
    return {
        "log_prompt_numbers": log1p(len(given)), "log_prompt_words": log1p(len(_spelled(lower))),
        "log_prompt_sentences": log1p(_num_sentences(prompt)), "log_prompt_chars": log1p(len(prompt)),
        "prompt_percent": "%" in lower or "percent" in lower, "prompt_part": bool(_PART.search(lower)),
        "prompt_compares": min(len(_COMPARED.findall(lower)), 5), "prompt_than": min(lower.count("than"), 5),
        "asks_left": bool(_LEFT.search(asked)), "asks_total": bool(_TOTAL.search(asked)),
        "prompt_average": "average" in lower, "prompt_if": min(lower.count("if "), 5),
        "prompt_each": min(len(_EACH.findall(lower)), 5), "prompt_time": bool(_TIME.search(lower)),
        "log_prompt_largest": log1p(max(given, default=0)),
    }  # fmt: skip


def _of_arithmetic(
    prompt: str, answer: str, annotated: Sequence[Equation], plain: Sequence[Equation]
) -> dict[str, float]:
    lower = prompt.lower()
    given, spelled, final = numbers(prompt), _spelled(lower), final_number(answer)
    steps = annotated or plain
    values = [step.value for step in steps]
    operations = "".join(sign for step in steps for sign in re.findall(r"[-+*/x×÷]", step.expression[1:]))
    operations = operations.replace("x", "*").replace("×", "*").replace("÷", "/")
    operands = [number for step in steps for number in numbers(step.expression)]
    is_money = bool(_MONEY.search(lower))
    last = (re.findall(r"[-+*/x]", steps[-1].expression[1:]) or [""])[-1].replace("x", "*") if steps else ""
    asked = re.split(r"(?<=[.!?])\s", lower.strip())[-1]
    is_whole = final is not None and is_near(final, round(final), 1e-9)
    return {
        "no_final": final is None, "log_calculations": log1p(len(annotated)), "no_calculation": not annotated,
        "log_equations": log1p(len(plain)), "wrong_calculations": min(sum(step.is_wrong for step in annotated), 2),
        "wrong_equations": min(sum(step.is_wrong for step in plain), 2),
        "final_is_last": final is not None and bool(values) and is_near(final, values[-1]),
        "final_is_whole": is_whole, "final_in_parts": final is not None and not is_whole and not is_money,
        "final_not_positive": final is not None and final <= 0,
        "log_final": log1p(abs(final)) if final is not None else 0,
        "final_in_prompt": final is not None and any(is_near(final, number) for number in given),
        "final_ratio": log1p(abs(final)) - log1p(max(given)) if final is not None and given else 0,
        "parts_of_things": min(sum(not is_near(value, round(value), 1e-9) for value in values), 3),
        "log_plus": log1p(operations.count("+")), "log_minus": log1p(operations.count("-")),
        "log_times": log1p(operations.count("*")), "log_by": log1p(operations.count("/")),
        "log_operations": log1p(len(operations)),
        "operations_per_number": len(operations) / max(1, len(given) + len(spelled)),
        "steps_per_sentence": len(annotated) / max(1, _num_sentences(prompt)),
        "last_plus": last == "+", "last_minus": last == "-", "last_times": last == "*", "last_by": last == "/",
        "total_by_minus": last == "-" and bool(_TOTAL.search(asked)),
        "left_without_minus": last != "-" and bool(_LEFT.search(asked)),
        "repeats": log1p(len(set(values)) / max(1, len(values))),
        **_of_sources(given, spelled, values, operands, answer),
    }  # fmt: skip


def _of_sources(
    given: Sequence[float], spelled: Sequence[float], values: Sequence[float], operands: Sequence[float], answer: str
) -> dict[str, float]:
    """Numbers of the prompt that the answer never uses, and numbers of its calculations that come from nowhere."""
    used = np.array([*numbers(answer), *operands, *(100 * operand for operand in operands)])
    unused = sum(not _has(used, number) for number in given)
    unused_words = sum(not (_has(used, number) or _has(used, 1 / number)) for number in spelled)
    known = np.array([*given, *spelled, *_COMMON, *values])
    known = np.concatenate([known, known / 100, 1 / known[known != 0]])
    return {
        "unused_numbers": min(unused, 3), "unused_share": unused / max(1, len(given)),
        "unused_words": min(unused_words, 3),
        "alien_numbers": min(sum(not _has(known, operand) for operand in operands), 4),
    }  # fmt: skip


def _has(known: NDArray[np.float64], number: float) -> bool:
    return bool((np.abs(known - number) <= 1e-3 * np.maximum(1.0, np.maximum(np.abs(known), abs(number)))).any())


def _spelled(lower: str) -> list[float]:
    return [_SPELLED[word] for word in re.findall(r"[a-z]+", lower) if word in _SPELLED]


def _num_sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s|$)", text))

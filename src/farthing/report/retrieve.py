"""Copy and retrieve: codes hidden in a text, each asked for at its end; an answer counts only if it is exact.

A cache that blurs keys finds the wrong place, one that blurs values copies a wrong digit. Text, places and codes follow
from the seed and the window, so that every codec is asked the same.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from farthing.engine import Engine, EngineConfig
from farthing.models import Model
from farthing.request import Request, SamplingParams

__all__ = ["Question", "questions", "retrieve_accuracy"]

NUM_DIGITS = 5
SPACING = 128  # tokens of the window for each hidden code
MOST_CODES = 16  # of one window
NAMES = (
    "Amara",
    "Bogdan",
    "Celine",
    "Dimitri",
    "Elena",
    "Farid",
    "Greta",
    "Hiro",
    "Ingrid",
    "Jamal",
    "Katya",
    "Lorenzo",
    "Mirela",
    "Nikhil",
    "Olga",
    "Pedro",
    "Rosa",
    "Stefan",
    "Tamara",
    "Viktor",
)


@dataclass(frozen=True)
class Question:
    """prompt: a window of tokens that ends just before the code; answer: its digits."""

    prompt: tuple[int, ...]
    answer: str


def questions(
    encode: Callable[[str], Sequence[int]], text: Sequence[int], window: int, seed: int
) -> tuple[Question, ...]:
    """Questions about one window: tokens of `text` with codes between them, and at the end one of the names.

    encode: a string's token ids. Each question begins with the same tokens, so its window is computed once.
    """
    rng = random.Random(f"{seed} {window}")
    num_codes = max(1, min(window // SPACING, MOST_CODES))
    names = rng.sample(NAMES, num_codes)
    codes = ["".join(rng.choice("0123456789") for _ in range(NUM_DIGITS)) for _ in names]
    facts = [list(encode(f"\nThe code of {name} is {code}.\n")) for name, code in zip(names, codes, strict=True)]
    asked = [list(encode(f"\nThe code of {name} is")) for name in names]
    num_text = window - sum(map(len, facts)) - max(map(len, asked)) - NUM_DIGITS - 2
    pieces, done = [], 0
    for i, fact in enumerate(facts):
        until = max(num_text, 0) * (i + 1) // num_codes
        pieces += [*text[done:until], *fact]
        done = until
    return tuple(Question((*pieces, *tail), code) for tail, code in zip(asked, codes, strict=True))


def retrieve_accuracy(
    model: Model, config: EngineConfig, asked: Sequence[Question], tick: Callable[[int], None] = lambda _: None
) -> float:
    """The share of questions that the engine answers with exactly the code (0 to 1), greedily."""
    engine = Engine(model, config)
    params = SamplingParams(temperature=0.0, max_tokens=NUM_DIGITS + 3, ignore_eos=True)
    num_right = 0
    for question in asked:
        [done] = engine.generate([Request(token_ids=question.prompt, params=params)])
        digits = done.text.strip()[:NUM_DIGITS]
        num_right += digits == question.answer
        tick(1)
    return num_right / len(asked)

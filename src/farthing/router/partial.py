"""Prompts of which one model's answer was judged, as feedback gives them: learned from beside rows with every label.

What is missing is taken to be what a router of the complete rows expects. So a verdict moves the model that it is
about, and leaves the others where they were; calibration and evaluation take complete rows alone.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from farthing.router.encode import encode_prompts
from farthing.router.label import Label
from farthing.router.labelled import Labelled
from farthing.router.origin import chosen_part
from farthing.router.signals import SIGNAL_NAMES
from farthing.router.train import train
from farthing.router.trained import Trained

__all__ = ["train_with_partial"]

Labels = Mapping[str, Mapping[str, Label]]


def train_with_partial(rows: Labelled, partial: Labels, part: float) -> tuple[Trained, tuple[str, ...]]:
    """The router, and the prompts of `partial` that it learned from: those whose content falls into the part."""
    base = train(rows)
    found = {prompt: row for prompt, row in partial.items() if any(_is_known(row, name) for name in rows.models)}
    prompts = tuple(found)
    chosen = [prompt for prompt, ok in zip(prompts, chosen_part(prompts, part, "train"), strict=True) if ok]
    if not chosen:
        return base, ()
    quality = np.clip(base.before.quality(encode_prompts(chosen)), 0, 1)
    for at, prompt in enumerate(chosen):
        for column, name in enumerate(rows.models):
            if _is_known(found[prompt], name):
                quality[at, column] = found[prompt][name].score
    everything = Labelled(rows.models, rows.costs, (*rows.prompts, *chosen), np.vstack([rows.quality, quality]))
    learned = train(everything)
    if rows.answers is None:
        return learned, tuple(chosen)
    small = rows.models[0]
    answers = [found[prompt][small].answer if _is_known(found[prompt], small) else None for prompt in chosen]
    judged = [at for at, answer in enumerate(answers) if answer is not None]
    checked = Labelled(
        rows.models,
        rows.costs,
        (*rows.prompts, *(chosen[at] for at in judged)),
        np.vstack([rows.quality, quality[judged]]),
        (*rows.answers, *(answer for answer in answers if answer is not None)),
        None if rows.signals is None else np.vstack([rows.signals, np.full((len(judged), len(SIGNAL_NAMES)), np.nan)]),
        hidden=None if rows.hidden is None else rows.hidden.and_unknown(len(judged)),
    )
    of_answers = train(checked)
    checks = {**base.checks, **of_answers.checks}  # of later models' answers nothing new is known
    prices = {**learned.prices, "cascade": (base if rows.later else of_answers).prices["cascade"]}
    return replace(learned, checks=checks, prices=prices, hidden=of_answers.hidden), tuple(chosen)


def _is_known(row: Mapping[str, Label], name: str) -> bool:
    return name in row and row[name].score is not None

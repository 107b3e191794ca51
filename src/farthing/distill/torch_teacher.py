"""What a classifier in a folder says of texts, by torch: its logits, and the hidden state that they are made of.

Our own engine gives the logits too (`engine.classifier`); the hidden state is only needed for the loss that matches it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample
from farthing.distill.torch_need import need_torch

__all__ = ["taught"]


def taught(
    folder: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
    *,
    on_step: Callable[[int], None] | None = None,
) -> list[Sample]:
    """The samples with the teacher's logits and hidden state. on_step is told how many are done.

    Raises InvalidRequest (no torch, samples that do not fit the model), ModelError for the folder.
    """
    need_torch()
    from farthing.distill.torch_run import class_outputs

    result = list(samples)
    done = 0
    for places, logits, hidden in class_outputs(folder, samples, recipe):
        for row, place in enumerate(places):
            result[place] = replace(result[place], teacher=logits[row], hidden=hidden[row])
        done += len(places)
        if on_step is not None:
            on_step(done)
    return result

"""Trains a student, or tunes a teacher: the entry, which needs torch only when it is called."""

from collections.abc import Callable, Sequence
from pathlib import Path

from farthing.distill.progress import Progress, Trained
from farthing.distill.recipe import Recipe
from farthing.distill.samples import Sample
from farthing.distill.torch_need import need_torch

__all__ = ["train"]


def train(
    start: Path,
    out: Path,
    train: Sequence[Sample],
    held_out: Sequence[Sample],
    recipe: Recipe,
    *,
    work: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train the model of a Hugging Face folder; `out` gets the weights of its best point on `held_out`, whole or not
    at all. work: a folder for checkpoints; a second call with the same arguments goes on where the first was killed.
    Where `out` is already what these arguments give, that is told at once. on_progress is called after every step.

    Raises InvalidRequest (no torch, samples that do not fit the model, `out` exists), ModelError for the folder.
    """
    need_torch()
    from farthing.distill.torch_run import run

    return run(start, out, train, held_out, recipe, work, on_progress or (lambda _: None))

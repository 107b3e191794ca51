"""AdamW with a learning rate for each depth, and how it rises and falls."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from farthing.distill.recipe import Recipe

__all__ = ["learning_share", "make_optimizer", "set_learning_rates"]

_LAYER = re.compile(r"\blayers\.(\d+)\.")


def make_optimizer(trained: Mapping[str, Tensor], num_layers: int, recipe: Recipe) -> Any:
    """Groups by depth and by whether weights decay (matrices do); each remembers its highest rate as `peak`."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in trained.items():
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((_peak(name, num_layers, recipe), decay), []).append(parameter)
    rows = [{"params": p, "lr": peak, "peak": peak, "weight_decay": decay} for (peak, decay), p in groups.items()]
    return torch.optim.AdamW(rows, betas=(0.9, 0.999), fused=True)


def _peak(name: str, num_layers: int, recipe: Recipe) -> float:
    if name.startswith("score."):
        return recipe.head_learning_rate
    found = _LAYER.search(name)
    if found is not None:
        return recipe.learning_rate * recipe.layer_decay ** (num_layers - 1 - int(found[1]))
    return recipe.learning_rate * (recipe.layer_decay**num_layers if "embed" in name else 1.0)


def learning_share(done: float, warmup: float) -> float:
    """Of the highest rate, when `done` of the training is over: a rise over `warmup`, then a cosine down to 0."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / (1 - warmup))))


def set_learning_rates(optimizer: Any, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share

"""Low-rank adapters beside frozen linear layers (arXiv 2106.09685), added into the weights at the end."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from farthing.distill.recipe import Recipe

__all__ = ["add_lora", "merged"]


def add_lora(model: Any, recipe: Recipe) -> dict[str, Any]:
    """Give each linear layer that the recipe names two matrices more: x W^T becomes x W^T plus alpha / rank * x A^T B^T
    with A [rank, in] random and B [out, rank] zero at first. Returns the layers by name."""
    rank, generator = recipe.lora_rank, torch.Generator().manual_seed(recipe.seed)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.split(".")[-1] in recipe.lora_targets
        and int(name.removeprefix("model.layers.").split(".")[0]) >= recipe.frozen_layers
    }
    for layer in layers.values():
        drawn = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        layer.register_parameter("lora_a", nn.Parameter(drawn))
        layer.register_parameter("lora_b", nn.Parameter(torch.zeros(layer.out_features, rank)))
        layer.register_forward_hook(partial(_beside, recipe.lora_alpha / rank))
    return layers


def merged(layer: Any, weight: Tensor, recipe: Recipe) -> Tensor:
    """The weight [out, in] that computes what `weight` and the layer's adapter do together."""
    return weight + recipe.lora_alpha / recipe.lora_rank * (layer.lora_b @ layer.lora_a)


def _beside(scale: float, layer: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    return output + scale * nn.functional.linear(nn.functional.linear(inputs[0], layer.lora_a), layer.lora_b)

"""Muon (Keller Jordan, 2024): the momentum of a matrix, made orthogonal by Newton-Schulz steps, is its update. It needs
about two thirds of AdamW's tokens for the same loss on a model of this size."""

from collections.abc import Iterable

import torch

__all__ = ["Muon"]

_STEPS = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046))


class Muon(torch.optim.Optimizer):
    """For matrices only; update of the root mean square `lr` x 0.2, so that AdamW's learning rates fit."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.1):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for same in shapes.values():
                self._update(same, group["lr"], group["momentum"], group["decay"])

    def _update(self, params: list[torch.nn.Parameter], lr: float, momentum: float, decay: float) -> None:
        pushed = []
        for p in params:
            assert p.grad is not None
            held = self.state[p].setdefault("momentum", torch.zeros_like(p))
            held.lerp_(p.grad, 1 - momentum)
            pushed.append(p.grad.lerp(held, momentum))
        for p, update in zip(params, orthogonal(torch.stack(pushed)), strict=True):
            p.mul_(1 - lr * decay).add_(update.to(p.dtype), alpha=-lr * 0.2 * max(p.shape) ** 0.5)


def orthogonal(stack: torch.Tensor) -> torch.Tensor:
    """Each matrix [n, rows, cols] with its singular values near 1."""
    x = stack.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in _STEPS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x

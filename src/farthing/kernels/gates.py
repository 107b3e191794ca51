"""How a mixture of experts chooses: a router's logits to experts and their weights, in NumPy."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["GateRule", "route"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GateRule:
    """Which experts a token takes, and how much of each, from its router's logits [E]. Ties go to the lowest index.

    "softmax": the top_k largest; weights are the softmax over all E. "top_softmax": the softmax over the chosen alone
    (gpt-oss). "sigmoid": scores are sigmoids, and the top_k of score + selection bias are chosen among the
    num_kept_groups of num_groups groups of neighbours whose two best such sums are largest; weights are the bare
    scores (DeepSeek V3). is_renormalised divides the chosen weights by their sum; then they are multiplied by scale.
    """

    kind: Literal["softmax", "top_softmax", "sigmoid"]
    top_k: int
    is_renormalised: bool = False
    scale: float = 1.0
    num_groups: int = 1
    num_kept_groups: int = 1


def route(logits: F32, rule: GateRule, bias: F32 | None = None) -> tuple[I64, F32]:
    """Experts [T, top_k], ascending, and their weights [T, top_k], of logits [T, E] and a selection bias [E].

    Softmax is monotone, so its choice is made on the logits, where two that differ are never rounded to a tie.
    """
    wide = logits.astype(np.float64)
    if rule.kind == "sigmoid":
        with np.errstate(over="ignore"):  # the quotient is then 0, as it should be
            scores = 1 / (1 + np.exp(-wide))
        experts = _largest(_kept_groups(scores + (0 if bias is None else bias), rule), rule.top_k)
    else:
        scores = np.exp(wide - wide.max(axis=1, keepdims=True))
        experts = _largest(wide, rule.top_k)
        whole = scores if rule.kind == "softmax" else np.take_along_axis(scores, experts, axis=1)
        scores /= whole.sum(axis=1, keepdims=True)
    weights = np.take_along_axis(scores, experts, axis=1)
    if rule.is_renormalised:
        weights /= weights.sum(axis=1, keepdims=True) + 1e-20
    return experts, (weights * rule.scale).astype(np.float32)


def _largest(values: F64, n: int) -> I64:
    """Indices [T, n] of the n largest of each row, ascending; of equal ones the first."""
    order = np.argsort(-values, axis=1, kind="stable")
    result: I64 = np.sort(order[:, :n], axis=1)
    return result


def _kept_groups(values: F64, rule: GateRule) -> F64:
    """`values` [T, E], minus infinity in the groups that are not kept."""
    groups = values.reshape(len(values), rule.num_groups, -1)
    best = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)  # [T, groups]
    result = np.full_like(groups, -np.inf)
    rows = np.arange(len(values))[:, None]
    kept = _largest(best, rule.num_kept_groups)
    result[rows, kept] = groups[rows, kept]
    return result.reshape(values.shape)

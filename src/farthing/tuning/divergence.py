"""KL divergence and top-1 agreement of a model with other weights, measured a layer at a time.

Nothing but the two residual streams and one layer's weights are in memory, so it takes models of which two would not
fit. The arithmetic is that of `report.quality`; products are float32, whatever the weights' formats.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from farthing.kernels.plan import Plan, QTensor
from farthing.report.quality import Divergence, Sum
from farthing.tuning.forward import Forward

__all__ = ["compare"]


def compare(
    reference: Plan,
    other: Plan,
    windows: Sequence[Sequence[int]],
    tick: Callable[[int], None] = lambda _: None,
) -> Divergence:
    """Of `other` from `reference`, over the second half of each window (as perplexity is by convention).

    tick(n) is called when n more of the 2 * num_layers layers have been run.
    """
    length = len(windows[0])
    rows = np.concatenate([np.arange(i * length + length // 2, (i + 1) * length) for i in range(len(windows))])
    logits = [_run(plan, windows, tick).logits(plan.tensors, rows) for plan in (reference, other)]
    total = Sum()
    for ours, theirs in zip(*logits, strict=True):
        total.add(ours, theirs)
    return total.result()


def _run(plan: Plan, windows: Sequence[Sequence[int]], tick: Callable[[int], None]) -> Forward:
    forward = Forward(plan, windows)
    tensors: Mapping[str, QTensor] = plan.tensors
    forward.embed(tensors)
    for index in range(forward.num_layers):
        forward.layer(index, tensors)
        tick(1)
    return forward

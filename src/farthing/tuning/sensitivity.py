"""How much each tensor's error costs the model: the KL divergence with that tensor alone in few bits.

Everything before a tensor's layer is the same whatever its bits, so the residual stream before each layer is kept and
only the layers from the tensor's own on are run again. A layer's experts are measured together, part by part: they are
many, each sees few tokens, and a GGUF holds them in one tensor.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.kernels.plan import Plan, QTensor
from farthing.report.quality import kl_divergences
from farthing.tuning.forward import Forward
from farthing.tuning.quantize import Overlay, quantize_tensor

__all__ = ["PROBE", "Sensitivity", "Unit", "measure_sensitivity", "units_of"]

F32 = npt.NDArray[np.float32]

_EXPERT = re.compile(r"(layers\.\d+\.experts)\.\d+\.(\w+)")
_LAYER = re.compile(r"layers\.(\d+)\.")
# Few bits, so that what is measured stands out; yet not so few that it is no guide to more.
PROBE = "q3"
_MOST_LOGIT_BYTES = 256 << 20  # of the reference's that are kept


@dataclass(frozen=True)
class Unit:
    """Matrices that take one format together: one, or a layer's experts' gates, ups or downs."""

    name: str
    tensors: tuple[str, ...]
    num_weights: int
    cols: int

    @property
    def layer(self) -> int:
        """The first layer whose output it changes; -1 for an embedding."""
        found = _LAYER.match(self.name)
        return int(found[1]) if found else -1


def units_of(tensors: Mapping[str, QTensor]) -> list[Unit]:
    """All matrices but routers, in order; vectors are float32 always."""
    members: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.rows > 1 and not name.endswith(".router"):
            members.setdefault(_EXPERT.sub(r"\1.\2", name), []).append(name)
    return [
        Unit(unit, tuple(names), sum(tensors[n].rows * tensors[n].cols for n in names), tensors[names[0]].cols)
        for unit, names in members.items()
    ]


class Sensitivity:
    """Measures units of one model on the same windows; made by running the model once as it is."""

    def __init__(self, plan: Plan, windows: Sequence[Sequence[int]], tick: Callable[[], None]) -> None:
        self._plan = plan
        self._forward = forward = Forward(plan, windows)
        forward.embed(plan.tensors)
        self._before: list[F32] = []  # the stream before each layer, and after the last
        for index in range(forward.num_layers):
            self._before.append(forward.stream.copy())
            forward.layer(index, plan.tensors)
            tick()
        self._before.append(forward.stream.copy())
        num_rows = max(1, min(forward.windows.size, _MOST_LOGIT_BYTES // (4 * plan.vocab_size)))
        self._rows = np.linspace(0, forward.windows.size - 1, num_rows).astype(np.int64)
        self._reference = [logits.copy() for logits in forward.logits(plan.tensors, self._rows)]

    def kl_divergence(self, unit: Unit, replaced: Mapping[str, QTensor]) -> float:
        """With the unit's tensors replaced: nats per token."""
        forward, tensors = self._forward, Overlay(replaced, self._plan.tensors)
        first = forward.num_layers if unit.name == "head" else max(unit.layer, 0)
        if unit.layer < 0 and unit.name != "head":
            forward.embed(tensors)
        else:
            forward.stream = self._before[first]
        for index in range(first, forward.num_layers):
            forward.layer(index, tensors)
        sums = [
            kl_divergences(ours, theirs).sum()
            for ours, theirs in zip(self._reference, forward.logits(tensors, self._rows), strict=True)
        ]
        return max(float(sum(sums)) / len(self._rows), 0.0)


def measure_sensitivity(
    plan: Plan,
    units: Sequence[Unit],
    windows: Sequence[Sequence[int]],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """KL divergence of each unit alone in PROBE, rounded to nearest. tick() after each layer of the first run and after
    each unit."""
    model = Sensitivity(plan, windows, tick)
    found: dict[str, float] = {}
    for unit in units:
        replaced = {n: quantize_tensor(n, plan.tensors[n], PROBE, "rtn") for n in unit.tensors}
        found[unit.name] = model.kl_divergence(unit, replaced)
        tick()
    return found

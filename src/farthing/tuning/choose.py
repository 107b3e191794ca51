"""Which format each tensor takes: one for all, or a mixture under a budget, of least expected loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from farthing.errors import InvalidRequest
from farthing.kernels.formats import row_bytes
from farthing.kernels.plan import QTensor
from farthing.quant import target_format
from farthing.quant.allocate import Option, allocate
from farthing.tuning.losses import Losses, fitting_formats
from farthing.tuning.sensitivity import Unit, units_of

__all__ = ["GGUF_MIXTURE", "OWN_MIXTURE", "Mixture", "one_format"]

# What a mixture is made of, fewest bits first.
GGUF_MIXTURE = ("tq2_0", "q2_k", "q3_k", "q4_k", "iq4_nl", "q4_0", "q4_1", "q5_k", "q5_0", "q5_1", "q6_k", "q8_0")
OWN_MIXTURE = ("t2", "q2", "c3", "q3", "c4", "q4", "q5", "q6", "q8_0")


def one_format(tensors: Mapping[str, QTensor], format: str) -> dict[str, str]:
    """Every matrix in `format`, but routers, and those whose columns are not whole blocks of it."""
    return {name: t.format if name.endswith(".router") else target_format(t, format) for name, t in tensors.items()}


@dataclass(frozen=True)
class Mixture:
    """The choice that a model's tensors leave: `units` take one of `candidates` each, the rest is `fixed`."""

    units: list[Unit]
    candidates: Sequence[str]
    fixed: Mapping[str, str]  # formats of vectors, routers, and matrices that no candidate fits
    fixed_bytes: int
    num_weights: int

    @classmethod
    def of(
        cls, tensors: Mapping[str, QTensor], candidates: Sequence[str], extra: Mapping[str, QTensor] | None = None
    ) -> "Mixture":
        """extra: tensors beside the model's own, which count and stay."""
        units = [unit for unit in units_of(tensors) if fitting_formats(unit, candidates)]
        mixed = {name for unit in units for name in unit.tensors}
        fixed = {name: "f32" if t.rows == 1 else t.format for name, t in tensors.items() if name not in mixed}
        others = list((extra or {}).values())
        num_bytes = sum(tensors[name].rows * row_bytes(format, tensors[name].cols) for name, format in fixed.items())
        return cls(
            units,
            candidates,
            fixed,
            num_bytes + sum(t.data.nbytes for t in others),
            sum(t.rows * t.cols for t in (*tensors.values(), *others)),
        )

    def check(self, budget: float) -> None:
        """Raises InvalidRequest where even the smallest formats take more bits per weight than `budget`."""
        least = self.fixed_bytes + sum(
            min(_num_bytes(unit, f) for f in fitting_formats(unit, self.candidates)) for unit in self.units
        )
        if 8 * least > budget * self.num_weights:
            bits = 8 * least / self.num_weights
            raise InvalidRequest(f"--bits is {budget:g}; the smallest formats there take {bits:.3f} bits per weight")

    def choose(self, losses: Losses, budget: float) -> dict[str, str]:
        """A format for every tensor; in all at most `budget` bits per weight."""
        self.check(budget)
        options = {
            unit.name: [Option(f, _num_bytes(unit, f), loss) for f, loss in losses[unit.name].items()]
            for unit in self.units
        }
        chosen = allocate(options, budget * self.num_weights - 8 * self.fixed_bytes)
        return {**self.fixed, **{name: chosen[unit.name].format for unit in self.units for name in unit.tensors}}


def _num_bytes(unit: Unit, format: str) -> int:
    return unit.num_weights // unit.cols * row_bytes(format, unit.cols)

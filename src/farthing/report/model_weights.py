"""How much of a model a token costs: parameters and bytes of weights, all and active."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from farthing.errors import FarthingError
from farthing.models import Model, load_model
from farthing.report.bill import Bill

__all__ = ["ModelWeights", "local_weights"]


@dataclass(frozen=True)
class ModelWeights:
    """Active is what one token alone is multiplied with; tokens of one step share what they have in common.

    num_bytes and bytes_per_token are in the formats of the weights, as the file has them or as they were re-blocked.
    """

    num_parameters: int
    num_active_parameters: int
    num_bytes: int
    bytes_per_token: int
    num_experts: int | None  # of a sparse layer; None for a dense model
    num_experts_per_token: int | None

    @classmethod
    def of(cls, model: Model) -> "ModelWeights":
        experts = model.config.experts
        return cls(
            model.num_parameters,
            model.num_active_parameters,
            model.weight_bytes,
            model.active_weight_bytes,
            None if experts is None else experts.num_experts,
            None if experts is None else experts.rule.top_k,
        )

    def line(self) -> str:
        """One sentence for people."""
        active = f", {_short(self.num_active_parameters)} of them active" if self.num_experts else ""
        chosen = f" ({self.num_experts_per_token} of {self.num_experts} experts)" if self.num_experts else ""
        read = f"a token alone reads {_short(self.bytes_per_token)}B of {_short(self.num_bytes)}B of weights{chosen}"
        return f"{_short(self.num_parameters)} parameters{active}; {read}"


def local_weights(bill: Bill, sources: Mapping[str, str]) -> dict[str, ModelWeights]:
    """By name, of the bill's models that lie on this machine and can be read, as their files have them.

    sources: where a served name's file is, if it is not known under that name.
    """
    found = {}
    for name, _ in bill.groups["model"].by_cost() if "model" in bill.groups else ():
        with suppress(FarthingError):  # a hosted one, or one that was removed: the bill stands without it
            found[name] = ModelWeights.of(load_model(sources.get(name, name)))
    return found


def _short(number: int) -> str:
    """Three figures and a letter for thousands, millions or billions; bytes follow the same powers of ten."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "

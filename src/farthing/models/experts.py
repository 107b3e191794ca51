"""Which layers of a model are mixtures of experts, and of what sizes: read from config.json or GGUF metadata."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from farthing.errors import CorruptModel, UnsupportedModel
from farthing.kernels.gates import GateRule
from farthing.models.fields import Fields

__all__ = ["ExpertsConfig", "expert_shapes", "experts_of_gguf", "experts_of_hf"]

_GGUF_SOFTMAX = 1  # of llama.cpp's llama_expert_gating_func_type
_GGUF_DENSE = re.compile(r"blk\.(\d+)\.ffn_gate\.weight")


@dataclass(frozen=True)
class ExpertsConfig:
    """Sizes of a model's experts. Raises CorruptModel naming the field that cannot be."""

    num_experts: int
    intermediate_size: int  # of one expert
    rule: GateRule
    shared_intermediate_size: int = 0  # of the expert that every token takes, scaled by a sigmoid of its own; 0: none
    dense_layers: frozenset[int] = frozenset()
    sparse_step: int = 1  # every so many layers is sparse, beginning with layer sparse_step - 1

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, value: object, allowed: str) -> None:
            if not ok:
                raise CorruptModel(f"the model's {name} is {value}; allowed: {allowed}")

        k, n = self.rule.top_k, self.num_experts
        need(n >= 1, "number of experts", n, "1 or more")
        need(1 <= k <= n, "number of experts per token", k, f"1 to the number of experts ({n})")
        need(self.intermediate_size >= 1, "experts' intermediate size", self.intermediate_size, "1 or more")
        shared = self.shared_intermediate_size
        need(shared >= 0, "shared expert's intermediate size", shared, "0 (none) or more")
        need(self.sparse_step >= 1, "decoder_sparse_step", self.sparse_step, "1 or more")

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer is a mixture of experts."""
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0


def expert_shapes(experts: ExpertsConfig, hidden_size: int) -> Iterator[tuple[str, int, int]]:
    """(name within a layer, rows, cols) of the tensors of a sparse layer. Lazy: a config may lie about sizes."""
    yield "router", experts.num_experts, hidden_size
    shared, size = experts.shared_intermediate_size, experts.intermediate_size
    if shared:
        yield "shared_router", 1, hidden_size
        yield "shared_gate", shared, hidden_size
        yield "shared_up", shared, hidden_size
        yield "shared_down", hidden_size, shared
    for expert in range(experts.num_experts):
        yield f"experts.{expert}.gate", size, hidden_size
        yield f"experts.{expert}.up", size, hidden_size
        yield f"experts.{expert}.down", hidden_size, size


def experts_of_hf(
    config: Fields, *, size: str, is_renormalised: bool, shared_size: int = 0, has_dense_layers: bool = False
) -> ExpertsConfig | None:
    """The experts that a config.json names; None where it has none of them. `size` is the key of an expert's size."""
    # transformers 5 writes Qwen 3's as num_local_experts; before, and in the checkpoints there are, as num_experts.
    num_experts = config.integer("num_local_experts", config.integer("num_experts", 0))
    if num_experts == 0 and has_dense_layers:
        return None
    rule = GateRule("softmax", config.integer("num_experts_per_tok"), is_renormalised)
    dense = config.integers("mlp_only_layers", ()) if has_dense_layers else ()
    step = config.integer("decoder_sparse_step", 1) if has_dense_layers else 1
    return ExpertsConfig(num_experts, config.integer(size), rule, shared_size, frozenset(dense), step)


def experts_of_gguf(
    fields: Fields, tensors: Collection[str], *, size: int, is_renormalised: bool, shared_size: int = 0
) -> ExpertsConfig:
    """The experts that a GGUF names, `size` being an expert's. Raises UnsupportedModel for another gate."""
    kind = fields.integer("expert_gating_func", _GGUF_SOFTMAX)
    if kind != _GGUF_SOFTMAX:
        raise UnsupportedModel(f"{fields.prefix}expert_gating_func is {kind}; supported: {_GGUF_SOFTMAX}, softmax")
    is_renormalised = fields.flag("expert_weights_norm", is_renormalised)
    scale = fields.number("expert_weights_scale", 1.0)
    rule = GateRule("softmax", fields.integer("expert_used_count"), is_renormalised, scale or 1.0)
    count = fields.integer("expert_count", 0)
    return ExpertsConfig(count, size, rule, shared_size, _dense_layers(tensors))


def _dense_layers(tensors: Collection[str]) -> frozenset[int]:
    """Layers that have the feed-forward of a dense model and no router."""
    found = (match for name in tensors if (match := _GGUF_DENSE.fullmatch(name)))
    return frozenset(int(m[1]) for m in found if f"blk.{m[1]}.ffn_gate_inp.weight" not in tensors)

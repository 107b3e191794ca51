"""Layers that see only a window of the past, and turn q and k by frequencies of their own: read from config.json or
GGUF metadata."""

import math
from dataclasses import dataclass

from farthing.errors import CorruptModel
from farthing.models.fields import Fields

__all__ = ["SlidingConfig", "sliding_of_gguf", "sliding_of_hf"]

_KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class SlidingConfig:
    """Raises CorruptModel naming the field that cannot be."""

    window: int  # positions that a token sees, its own the last
    layers: frozenset[int]
    rope_theta: float  # in these layers, whose frequencies are never scaled

    def __post_init__(self) -> None:
        if self.window < 1:
            raise CorruptModel(f"the model's sliding window is {self.window}; allowed: 1 or more")
        if not 1 < self.rope_theta < math.inf:
            raise CorruptModel(f"the model's rope_theta of sliding layers is {self.rope_theta}; allowed: above 1")


def sliding_of_hf(config: Fields, *, window: int, pattern: int, rope_theta: float) -> SlidingConfig | None:
    """What a config.json says of them, with the window and the pattern of one that does not; None where none slides.

    transformers 5 names the kind of every layer; before, a number said which see the whole past.
    """
    num_layers, kinds = config.integer("num_hidden_layers"), config.raw.get("layer_types")
    if kinds is None:
        layers = _by_pattern(num_layers, config.integer("sliding_window_pattern", pattern))
    elif isinstance(kinds, list) and len(kinds) == num_layers and all(kind in _KINDS for kind in kinds):
        layers = frozenset(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    else:
        allowed = f"{num_layers} of {', '.join(_KINDS)}"
        raise CorruptModel(f"{config.place}: layer_types is {kinds!r:.80}; allowed: {allowed}")
    return SlidingConfig(config.integer("sliding_window", window), layers, rope_theta) if layers else None


def sliding_of_gguf(fields: Fields, *, pattern: int, rope_theta: float) -> SlidingConfig | None:
    """The same of a GGUF, where no window says that none slides. The pattern is a number, or a truth value a layer."""
    window, num_layers = fields.integer("attention.sliding_window", 0), fields.integer("block_count")
    key = "attention.sliding_window_pattern"
    kinds = fields.raw.get(fields.prefix + key)
    if not isinstance(kinds, list | tuple):
        layers = _by_pattern(num_layers, fields.integer(key, pattern))
    elif len(kinds) == num_layers and all(type(kind) is bool for kind in kinds):
        layers = frozenset(i for i, kind in enumerate(kinds) if kind)
    else:
        allowed = f"a number, or true or false for each of {num_layers} layers"
        raise CorruptModel(f"{fields.place}: {fields.prefix}{key} is {kinds!r:.80}; allowed: {allowed}")
    theta = fields.number("rope.freq_base_swa", rope_theta)
    return SlidingConfig(window, layers, theta) if window and layers else None


def _by_pattern(num_layers: int, pattern: int) -> frozenset[int]:
    """All but every so many; of 0, all."""
    return frozenset(i for i in range(num_layers) if pattern < 1 or (i + 1) % pattern)

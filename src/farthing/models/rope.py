"""The frequencies of rotary position embedding, plain and stretched for a longer context."""

import math

import numpy as np
import numpy.typing as npt

from farthing.models.config import ModelConfig, RopeScaling

__all__ = ["inv_freq", "rope_inv_freq"]

F32 = npt.NDArray[np.float32]


def rope_inv_freq(config: ModelConfig) -> F32:
    """Radians per position [head_dim / 2] of each pair of columns, scaled as the config says.

    Computed in float32 like the reference implementations: at position 8,000 one unit in the last place is visible.
    """
    result = inv_freq(config.head_dim, config.rope_theta)
    scaling = config.rope_scaling
    if scaling is None:
        return result
    if scaling.kind == "linear":
        return result / np.float32(scaling.factor)
    return _llama3(result, scaling)


def inv_freq(head_dim: int, theta: float) -> F32:
    """Without scaling."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    result: F32 = np.float32(1) / np.float32(theta) ** exponents
    return result


def _llama3(plain: F32, scaling: RopeScaling) -> F32:
    """Wavelengths shorter than original / high_freq_factor stay, longer than original / low_freq_factor are stretched
    by `factor`, those between are blended linearly in frequency (arXiv 2407.21783)."""
    turns = np.float32(scaling.original_max_position_embeddings) * plain / np.float32(2 * math.pi)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    kept = np.clip((turns - low) / (high - low), 0, 1)  # share of the frequency that is not stretched
    result: F32 = ((1 - kept) * plain / np.float32(scaling.factor) + kept * plain).astype(np.float32)
    return result

"""A model turned: the same function of the same text, with weights that have no outlying columns (arXiv 2404.00456).

The residual stream is multiplied by a random orthogonal matrix Q. What writes to it (embedding, o, down) is followed by
Q, what reads it (q, k, v, gate, up, head) preceded by its inverse; RMSNorm does not see a rotation once its weights are
folded into the matrices behind it. Each head's values are turned by a Hadamard matrix, which o turns back. Nothing is
added at run time, and in exact arithmetic the logits are the same.

A head that was the embedding (`is_tied_head`) cannot stay so, since only the head takes the final norm's weights: it
becomes a matrix of its own, and the model has that many weights more.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.turboquant import hadamard

__all__ = ["Sizes", "rotate"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_AFTER_NORM = {
    "attention_norm": frozenset({"q", "k", "v"}),
    "mlp_norm": frozenset({"gate", "up", "router", "shared_router", "shared_gate", "shared_up"}),
}
_WRITERS = frozenset({"o", "down", "shared_down"})
_UNTOUCHED = frozenset({"q_bias", "k_bias", "gate_bias", "up_bias", "q_norm", "k_norm", "rope_factors"})


class Sizes(Protocol):
    """What of a ModelConfig counts here: a frozen dataclass with these fields."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def is_tied_head(self) -> bool: ...


Config = TypeVar("Config", bound=Sizes)


def rotate(config: Config, tensors: Mapping[str, F32], seed: int) -> tuple[Config, dict[str, F32]]:
    """The turned model: a config without a tied head, and tensors under the names of `models/decoder.py`, all float32
    [rows, cols] (vectors [1, cols]). Equal seeds give equal matrices.

    Raises InvalidRequest for a tensor of which it does not know on which side of the residual stream it stands.
    """
    turn = _Turn(config.head_dim, _orthogonal(config.hidden_size, seed))
    result = {name: turn.tensor(name, tensors) for name in tensors}
    if config.is_tied_head:
        result["head"] = turn.reader(tensors["embed"], tensors["final_norm"])
    return replace(config, is_tied_head=False), result  # type: ignore[type-var]


def _orthogonal(size: int, seed: int) -> F64:
    """A random orthogonal matrix, uniform over all of them: the signs of R are what a plain QR leaves uneven."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    result: F64 = q * np.sign(np.diag(r))
    return result


class _Turn:
    def __init__(self, head_dim: int, rotation: F64) -> None:
        self.head_dim = head_dim
        self.rotation = rotation  # [hidden_size, hidden_size]

    def reader(self, weight: F32, norm: F32) -> F32:
        """A matrix [rows, hidden_size] that stands behind a norm, whose weights it takes in."""
        return ((weight.astype(np.float64) * norm) @ self.rotation).astype(np.float32)

    def tensor(self, name: str, tensors: Mapping[str, F32]) -> F32:
        weight, role = tensors[name], name.rsplit(".", 1)[-1]
        if role in ("attention_norm", "mlp_norm", "final_norm"):
            return np.ones_like(weight)
        if role == "embed":
            return (weight.astype(np.float64) @ self.rotation).astype(np.float32)
        if role == "head":
            return self.reader(weight, tensors["final_norm"])
        if role == "v_bias":
            return self._values(weight.T).T.astype(np.float32)
        for norm, readers in _AFTER_NORM.items():
            if role in readers:
                layer = ".".join(name.split(".")[:2])
                turned = self.reader(weight, tensors[f"{layer}.{norm}"])
                return self._values(turned).astype(np.float32) if role == "v" else turned
        if role.removesuffix("_bias") in _WRITERS:
            return self._writer(weight, role)
        if role in _UNTOUCHED:
            return weight
        raise InvalidRequest(
            f"tensor {name} has no known place beside a rotated residual stream: leave the rotation out"
        )

    def _values(self, weight: npt.NDArray[np.floating]) -> F64:
        """The rows [num_kv_heads * head_dim, ...] of v, those of each head turned."""
        heads = weight.reshape(-1, self.head_dim, weight.shape[1])
        return hadamard(heads.swapaxes(1, 2)).swapaxes(1, 2).reshape(weight.shape)

    def _writer(self, weight: F32, role: str) -> F32:
        """A matrix [hidden_size, cols] that adds to the residual stream, or its bias [1, hidden_size]."""
        wide = weight.astype(np.float64)
        if role.endswith("_bias"):
            return (wide @ self.rotation).astype(np.float32)
        if role == "o":
            wide = hadamard(wide.reshape(len(wide), -1, self.head_dim)).reshape(wide.shape)
        return (self.rotation.T @ wide).astype(np.float32)

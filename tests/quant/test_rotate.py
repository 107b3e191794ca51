"""A turned model says what the model says."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize
from farthing.kernels.plan import KVSpec, QTensor
from farthing.models import load_model
from farthing.models.config import ModelConfig
from farthing.models.decoder import build_plan, tensor_shapes
from farthing.quant.rotate import rotate
from tests.models.small import GOLDEN, SMALL, SPARSE, logits_of

F32 = npt.NDArray[np.float32]
IDS = [1, 17, 4, 90, 33, 2, 61, 8, 8, 25]


def logits(config: ModelConfig, tensors: dict[str, F32]) -> F32:
    blocks = {}
    for name, values in tensors.items():
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        blocks[name] = QTensor("f32", values.shape[0], values.shape[1], data)
    kv = KVSpec(config.num_layers, config.num_kv_heads, config.head_dim, 5, 16, "f32", "f32")
    return logits_of(kernels.load(build_plan(config, blocks), kv, isa="reference"), IDS)


def golden_tensors(name: str) -> tuple[ModelConfig, dict[str, F32]]:
    model = load_model(GOLDEN / name)
    return model.config, {n: dequantize(t.data, t.format, t.rows, t.cols) for n, t in model.tensors.items()}


@pytest.mark.parametrize("name", [n for n in (*SMALL, *SPARSE) if n != "gemma3_text"])  # its norms stand elsewhere
def test_logits_stay(name: str) -> None:
    config, tensors = golden_tensors(name)
    turned_config, turned = rotate(config, tensors, seed=5)
    assert {(n, *t.shape) for n, t in turned.items() if n != "rope_factors"} == set(tensor_shapes(turned_config))
    assert all(t.dtype == np.float32 for t in turned.values())
    assert not np.allclose(turned["layers.1.q"], tensors["layers.1.q"], atol=0.01)
    np.testing.assert_allclose(logits(turned_config, turned), logits(config, tensors), atol=1e-3)


@pytest.mark.parametrize("head_dim", [16, 24])
def test_biases_and_a_tied_head_are_turned_too(head_dim: int) -> None:
    """Random weights: every flag that a config has, norms far from 1, and a head_dim that is no power of 2."""
    base = load_model(GOLDEN / "llama").config
    config = replace(base, head_dim=head_dim, has_qkv_bias=True, has_o_bias=True, has_mlp_bias=True, has_qk_norm=True,
                     is_tied_head=True, rope_scaling=None)  # fmt: skip
    rng = np.random.default_rng(3)
    tensors = {n: (rng.standard_normal((r, c)) / np.sqrt(c)).astype(np.float32) for n, r, c in tensor_shapes(config)}
    for name in tensors:
        if name.endswith("norm"):
            tensors[name] = np.exp(rng.normal(0, 0.5, tensors[name].shape)).astype(np.float32)
    turned_config, turned = rotate(config, tensors, seed=6)
    assert not turned_config.is_tied_head
    assert turned["head"].shape == tensors["embed"].shape
    np.testing.assert_allclose(logits(turned_config, turned), logits(config, tensors), atol=1e-3)


def test_a_column_that_stood_out_is_spread_over_all() -> None:
    config, tensors = golden_tensors("llama")
    tensors["layers.0.gate"][:, 3] *= 100
    _, turned = rotate(config, tensors, seed=7)
    before, after = (np.abs(t["layers.0.gate"]).max() / t["layers.0.gate"].std() for t in (tensors, turned))
    assert after < before / 2


def test_equal_seeds_turn_equally() -> None:
    config, tensors = golden_tensors("llama")
    first, second, other = (rotate(config, tensors, seed)[1]["layers.0.o"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_an_unknown_tensor_is_refused() -> None:
    config, tensors = golden_tensors("llama")
    with pytest.raises(InvalidRequest, match=r"layers\.0\.post_norm"):
        rotate(config, {**tensors, "layers.0.post_norm": tensors["final_norm"]}, seed=1)

"""A plan is whole: every view lies in its buffer, every weight is there in the shape the operation needs."""

from dataclasses import replace

import numpy as np
import pytest

from farthing.kernels.plan import (
    Add,
    Attention,
    Embed,
    Head,
    Linear,
    Plan,
    QTensor,
    RmsNorm,
    Rope,
    StoreKV,
    SwiGLU,
    View,
)
from farthing.models.config import ModelConfig, RopeScaling
from farthing.models.decoder import build_plan, tensor_shapes
from farthing.models.rope import rope_inv_freq

TINY = ModelConfig(
    architecture="llama",
    vocab_size=40,
    hidden_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=16,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
)
ALL_FLAGS = replace(TINY, has_qkv_bias=True, has_o_bias=True, has_mlp_bias=True, has_qk_norm=True)


def tensors_of(config: ModelConfig) -> dict[str, QTensor]:
    return {
        name: QTensor("f32", rows, cols, np.zeros(rows * cols, np.float32).view(np.uint8))
        for name, rows, cols in tensor_shapes(config)
    }


def views(op: object) -> list[View]:
    return [value for value in vars(op).values() if isinstance(value, View)]


def check_linear(op: Linear, plan: Plan) -> None:
    rows = [plan.tensors[weight].rows for weight in op.weights]
    assert sum(rows) == op.dst.width
    assert {plan.tensors[weight].cols for weight in op.weights} == {op.src.width}
    assert [bias and plan.tensors[bias].cols for bias in op.biases] in (rows, [None] * len(rows))


@pytest.mark.parametrize("config", [TINY, ALL_FLAGS, replace(TINY, is_tied_head=True)])
def test_every_operation_fits(config: ModelConfig) -> None:
    plan = build_plan(config, tensors_of(config))
    for op in plan.ops:
        for view in views(op):
            assert 0 <= view.offset < view.offset + view.width <= plan.buffers[view.buffer]
        match op:
            case Linear():
                check_linear(op, plan)
            case RmsNorm():
                assert op.src.width == op.dst.width
                assert op.src.width % op.group == 0
                assert plan.tensors[op.weight].cols == op.group
            case Rope():
                assert plan.tensors[op.inv_freq].cols == op.head_dim // 2
            case SwiGLU():
                assert op.gate.width == op.up.width == op.dst.width == config.intermediate_size
            case Attention():
                assert op.q.width == op.dst.width == op.num_heads * config.head_dim
            case StoreKV():
                assert op.k.width == op.v.width == config.num_kv_heads * config.head_dim
            case Embed() | Head():
                assert (plan.tensors[op.weight].rows, plan.tensors[op.weight].cols) == (40, 24)


def test_order_of_a_layer() -> None:
    plan = build_plan(ALL_FLAGS, tensors_of(ALL_FLAGS))
    layer = [RmsNorm, Linear, RmsNorm, RmsNorm, Rope, Rope, StoreKV, Attention, Linear, RmsNorm, Linear, SwiGLU, Linear]
    assert [type(op) for op in plan.ops] == [Embed, *layer, *layer, RmsNorm, Head]
    linears = [op for op in plan.ops if isinstance(op, Linear)]
    assert linears[0].weights == ("layers.0.q", "layers.0.k", "layers.0.v")
    assert linears[0].biases == ("layers.0.q_bias", "layers.0.k_bias", "layers.0.v_bias")
    assert linears[2].weights == ("layers.0.gate", "layers.0.up")
    assert [op.is_added for op in linears] == [False, True, False, True] * 2
    assert not any(isinstance(op, Add) for op in plan.ops)  # residuals are added by the linear itself
    assert [op.layer for op in plan.ops if isinstance(op, StoreKV | Attention)] == [0, 0, 1, 1]


def test_flags_reach_the_plan() -> None:
    plain = build_plan(TINY, tensors_of(TINY))
    assert all(op.biases == (None,) * len(op.weights) for op in plain.ops if isinstance(op, Linear))
    assert {op.style for op in plain.ops if isinstance(op, Rope)} == {"half"}
    assert {op.group for op in plain.ops if isinstance(op, RmsNorm)} == {24}
    assert plain.ops[-1] == Head(View("normed", 0, 24), "head")
    tied = replace(TINY, is_tied_head=True, rope_style="interleaved")
    plan = build_plan(tied, tensors_of(tied), "int8")
    assert plan.ops[-1] == Head(View("normed", 0, 24), "embed", product="int8")
    assert "head" not in plan.tensors
    assert {op.product for op in plan.ops if isinstance(op, Linear)} == {"int8"}
    assert {op.style for op in plan.ops if isinstance(op, Rope)} == {"interleaved"}


def test_rope_frequencies() -> None:
    plain = rope_inv_freq(TINY)
    np.testing.assert_allclose(plain, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    linear = rope_inv_freq(replace(TINY, rope_scaling=RopeScaling("linear", 4.0)))
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-7)


def test_llama3_frequencies_keep_blend_and_stretch() -> None:
    """original 200 puts the wavelengths 6.3, 63, 628, 6283 above (kept), between (blended) and below (stretched)."""
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, original_max_position_embeddings=200)
    found = rope_inv_freq(replace(TINY, rope_scaling=scaling))
    share = (200 / (2 * np.pi * 10) - 1) / 3
    blended = (1 - share) * 0.1 / 8 + share * 0.1
    np.testing.assert_allclose(found, [1.0, blended, 0.01 / 8, 0.001 / 8], rtol=1e-6)


def test_rope_factors_divide_the_frequencies() -> None:
    factors = np.array([1, 2, 4, 8], np.float32)
    tensors = tensors_of(TINY) | {"rope_factors": QTensor("f32", 1, 4, factors.view(np.uint8))}
    found = build_plan(TINY, tensors).tensors["rope_inv_freq"].data.view(np.float32)
    np.testing.assert_allclose(found, [1.0, 0.05, 0.0025, 0.000125], rtol=1e-6)

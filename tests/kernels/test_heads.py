"""What a product's member does with the heads that it made, and the codes that attention leaves for the product behind
it, give the bits of the operations apart; and rows are there for whoever reads them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.plan import (
    Add,
    Attention,
    Batch,
    Embed,
    Head,
    KVSpec,
    Linear,
    Op,
    Plan,
    QTensor,
    Rope,
    StoreKV,
    SwiGLU,
    View,
)
from farthing.quant import quantize

F32 = npt.NDArray[np.float32]
VOCAB, HIDDEN, GATED, KV_HEADS, GROUP, PAGES = 61, 96, 64, 2, 3, 64


def f32(array: npt.NDArray[Any]) -> QTensor:
    array = np.ascontiguousarray(array, np.float32)
    rows, cols = array.shape
    return QTensor("f32", rows, cols, array.reshape(-1).view(np.uint8))


def tensors(head_dim: int, name: str) -> dict[str, QTensor]:
    rng = np.random.default_rng(head_dim)
    q, kv = KV_HEADS * GROUP * head_dim, KV_HEADS * head_dim

    def weight(rows: int, cols: int) -> QTensor:
        values = (rng.normal(size=(rows, cols)) / np.sqrt(cols)).astype(np.float32)
        return f32(values) if name == "f32" or cols % 32 else quantize(values, name)

    made = {"q": weight(q, HIDDEN), "k": weight(kv, HIDDEN), "v": weight(kv, HIDDEN), "o": weight(HIDDEN, q)}
    made |= {"gate": weight(GATED, q), "up": weight(GATED, q), "down": weight(HIDDEN, GATED)}
    made["table"] = f32(rng.normal(size=(VOCAB, HIDDEN)))
    made["freq"] = f32(1e4 ** -np.linspace(0, 1, head_dim // 2, endpoint=False)[None])
    made["bias"] = f32(rng.normal(size=(1, kv)))
    return made | {f"eye.{n}": f32(np.eye(VOCAB, n)) for n in {HIDDEN, q, kv, q + 2 * kv}}


def outputs(
    head_dim: int,
    name: str,
    isa: str,
    lengths: tuple[int, ...],
    *,
    is_apart: bool,
    read: str = "y",
    codec: str = "q8",
    num_threads: int = 2,
    window: int | None = None,
    style: Any = "half",
    order: str = "plain",
) -> tuple[F32, npt.NDArray[np.uint8]]:
    """The first columns of a buffer when all is done, and the pages. is_apart: others stand between the operations, and
    somebody reads what attention left. order: another than that of a decoder's layer."""
    q, kv = KV_HEADS * GROUP * head_dim, KV_HEADS * head_dim
    x, y, qkv, attended = View("x", 0, HIDDEN), View("y", 0, HIDDEN), View("qkv", 0, q + 2 * kv), View("attended", 0, q)
    of_q, of_k, of_v = View("qkv", 0, q), View("qkv", q, kv), View("qkv", q + kv, kv)
    aside = (Add(View("aside", 0, 8), View("aside", 8, 8)),) if is_apart else ()
    turned = [Rope(of_q, head_dim, "freq", style), Rope(of_k, head_dim, "freq", style)]
    stored = [StoreKV(0, of_k, of_v)]
    heads: list[Op] = [*turned, *stored]
    if order == "turned later":
        heads = [turned[0], *stored, turned[1], *stored, Rope(of_v, head_dim, "freq", style)]
    elif order == "stored twice":
        heads = [*turned, StoreKV(1, of_k, of_v), *stored]
    behind: tuple[Op, ...] = (Linear(attended, y, ("o",), (None,), True, "int8"),)
    if order == "gated":
        both = View("both", 0, 2 * GATED)
        gate, up, inner = View("both", 0, GATED), View("both", GATED, GATED), View("inner", 0, GATED)
        behind = (
            Linear(attended, both, ("gate", "up"), (None, None), False, "int8"),
            SwiGLU(gate, up, inner),
            Linear(inner, y, ("down",), (None,), True, "int8"),
        )
    ops: tuple[Op, ...] = (
        Embed(x, "table"),
        Embed(y, "table"),
        Linear(x, qkv, ("q", "k", "v"), (None, "bias", None), False, "int8"),
        *(op for head in heads for op in (*aside, head)),
        Attention(0, of_q, attended, KV_HEADS * GROUP, head_dim**-0.5, window),
        *behind,
    )
    if is_apart:
        ops += (Add(View("attended", 0, 8), View("aside", 0, 8)),)
    widths = {
        "x": HIDDEN,
        "y": HIDDEN,
        "qkv": q + 2 * kv,
        "attended": q,
        "aside": 16,
        "both": 2 * GATED,
        "inner": GATED,
    }
    view = View(read, 0, widths[read])
    plan = Plan(widths, (*ops, Head(view, f"eye.{view.width}")), VOCAB, tensors(head_dim, name))
    spec = KVSpec(2, KV_HEADS, head_dim, PAGES, k_codec=codec, v_codec=codec)
    program = kernels.load(plan, spec, num_threads=num_threads, isa=isa)
    program.pages[:] = 0
    n = sum(lengths)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    tables = np.arange(PAGES, dtype=np.int32).reshape(len(lengths), -1)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = (np.arange(n) * 31 % VOCAB).astype(np.int32)
    logits = kernels.run(program, Batch(ids, positions, starts, tables, np.arange(n, dtype=np.int32))).copy()
    return logits, program.pages.copy()


def assert_alike(head_dim: int, name: str, isa: str, lengths: tuple[int, ...], **more: Any) -> None:
    joined, pages = outputs(head_dim, name, isa, lengths, is_apart=False, **more)
    apart, pages_apart = outputs(head_dim, name, isa, lengths, is_apart=True, **{**more, "num_threads": 1})
    assert np.isfinite(apart).all()
    assert np.ptp(apart) > 0
    np.testing.assert_array_equal(joined, apart)
    np.testing.assert_array_equal(pages, pages_apart)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("name", ["q4_1", "q8_0", "f32"])
@pytest.mark.parametrize("lengths", [(1,), (3,), (5,), (17,), (40,), (151,), (600,), (1, 1, 1, 1), (70, 1, 9, 200)])
def test_the_same_bits_as_apart(isa: str, name: str, lengths: tuple[int, ...]) -> None:
    for num_threads in (2, 3):
        assert_alike(64, name, isa, lengths, num_threads=num_threads)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("codec", ["f32", "f16", "q8", "tq4", "tq3"])
@pytest.mark.parametrize("head_dim", [16, 32, 48, 64])
def test_of_every_codec_and_size_of_heads(isa: str, codec: str, head_dim: int) -> None:
    assert_alike(head_dim, "q4_1", isa, (131,), codec=codec, style="interleaved")
    assert_alike(head_dim, "q4_1", isa, (90, 2), codec=codec)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
def test_of_heads_that_are_no_whole_panels(isa: str) -> None:
    assert_alike(24, "q4_0", isa, (131,), codec="q8")


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("window", [1, 20, 300])
def test_with_a_window(isa: str, window: int) -> None:
    assert_alike(64, "q4_1", isa, (400,), window=window)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("read", ["qkv", "attended"])
def test_what_lies_between_can_be_read(isa: str, read: str) -> None:
    assert_alike(64, "q4_1", isa, (133,), read=read)


@pytest.mark.parametrize("isa", kernels.instruction_sets())
@pytest.mark.parametrize("order", ["gated", "stored twice", "turned later"])
def test_in_another_order(isa: str, order: str) -> None:
    for length in (3, 140):
        assert_alike(64, "q4_1", isa, (length,), order=order)

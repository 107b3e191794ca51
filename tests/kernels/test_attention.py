"""Native attention: against sums in NumPy, and law 1: a token's result is the same bits in whatever batch it comes."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest

from farthing import kernels
from farthing.kernels.plan import Attention, Batch, Embed, Head, KVSpec, Plan, QTensor, StoreKV, View
from farthing.kernels.turboquant import code_unit, code_values

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
NATIVE = kernels.instruction_sets()
TURBOQUANT = {"tq4": 4, "tq3": 3, "tq2": 2}
VOCAB = 600  # at least as many as columns, for the Head's unit rows


@dataclass(frozen=True)
class Shape:
    num_heads: int = 3
    num_kv_heads: int = 1
    head_dim: int = 16
    page_size: int = 16
    codecs: tuple[str, str] = ("f16", "f16")
    window: int | None = None

    @property
    def widths(self) -> tuple[int, int]:
        return self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim


def matrix(values: F32) -> QTensor:
    rows, cols = values.shape
    return QTensor("f32", rows, cols, np.ascontiguousarray(values).reshape(-1).view(np.uint8))


class Lab:
    """A plan that looks up q, k and v by token id and returns what attention makes of them as logits."""

    def __init__(self, shape: Shape, *, isa: str, num_threads: int, num_pages: int, table: F32) -> None:
        q, kv = shape.widths
        self.width = q
        ops = (
            Embed(View("x", 0, q + 2 * kv), "table"),
            StoreKV(0, View("x", q, kv), View("x", q + kv, kv)),
            Attention(0, View("x", 0, q), View("y", 0, q), shape.num_heads, shape.head_dim**-0.5, shape.window),
            Head(View("y", 0, q), "eye"),
        )
        tensors = {"table": matrix(table), "eye": matrix(np.eye(VOCAB, q, dtype=np.float32))}
        spec = KVSpec(
            1, shape.num_kv_heads, shape.head_dim, num_pages, shape.page_size, *shape.codecs, num_edge_layers=0
        )
        plan = Plan({"x": q + 2 * kv, "y": q}, ops, VOCAB, tensors)
        self.program = kernels.load(plan, spec, num_threads=num_threads, isa=isa)

    def run(self, ids: list[I32], spans: list[tuple[int, int, int]], pages: I32) -> F32:
        """One batch of (sequence, first, end) spans; pages is [sequences, max pages]."""
        tokens = [ids[s][first:end] for s, first, end in spans]
        lengths = [len(t) for t in tokens]
        batch = Batch(
            np.concatenate(tokens).astype(np.int32),
            np.concatenate([np.arange(first, end) for _, first, end in spans]).astype(np.int32),
            np.cumsum([0, *lengths]).astype(np.int32),
            np.ascontiguousarray(pages[[s for s, _, _ in spans]]),
            np.arange(sum(lengths), dtype=np.int32),
        )
        return kernels.run(self.program, batch)[:, : self.width].copy()


def random_table(shape: Shape) -> F32:
    q, kv = shape.widths
    return np.random.default_rng(3).normal(size=(VOCAB, q + 2 * kv)).astype(np.float32)


def random_ids(lengths: tuple[int, ...]) -> list[I32]:
    rng = np.random.default_rng(4)
    return [rng.integers(0, VOCAB, n, dtype=np.int32) for n in lengths]


def scattered_pages(shape: Shape, lengths: tuple[int, ...]) -> I32:
    most = -(-max(lengths) // shape.page_size)
    order = np.random.default_rng(5).permutation(most * len(lengths)).astype(np.int32)
    return order.reshape(len(lengths), most)


def rounded(heads: F32, codec: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """heads [tokens, num_kv_heads, head_dim] as the codec keeps them, and the codes' scales."""
    if codec == "q8":
        scale = np.abs(heads).max(axis=2, keepdims=True) / np.float32(127)
        codes = np.rint(heads / np.where(scale > 0, scale, np.float32(1)))
        return np.asarray(codes.astype(np.float64) * scale), scale.astype(np.float64)
    if codec in TURBOQUANT:
        zeros = ~heads.any(axis=2, keepdims=True)
        heads = np.where(zeros, np.float32(1), heads)
        book = code_values(heads.shape[2], TURBOQUANT[codec]).astype(np.float64)
        wide = heads.astype(np.float64)
        norms = np.linalg.norm(wide, axis=2, keepdims=True)
        units = wide / norms * code_unit(heads.shape[2], TURBOQUANT[codec])
        nearest = book[np.abs(units[..., None] - book).argmin(axis=3)]
        scale = (norms / np.linalg.norm(nearest, axis=2, keepdims=True) * 256).astype(np.float16)
        scale = np.where(zeros, 0, scale.astype(np.float64))
        return np.asarray(nearest * scale / 256), scale
    kept = heads.astype({"f16": np.float16, "f32": np.float32}[codec]).astype(np.float64)
    return kept, np.ones((*heads.shape[:2], 1))


def rotated(heads: F32) -> F32:
    """Each block of the largest power of two that divides head_dim through the orthonormal Walsh-Hadamard transform."""
    size = heads.shape[2] & -heads.shape[2]
    turn = reduce(np.kron, [np.array([[1, 1], [1, -1]]) / np.sqrt(2)] * (size.bit_length() - 1))
    out: F32 = (
        (heads.reshape(*heads.shape[:2], -1, size).astype(np.float64) @ turn).reshape(heads.shape).astype(np.float32)
    )
    return out


def in_bytes(weights: npt.NDArray[np.float64], scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """weights [heads, tokens, positions] as AVX-512 multiplies them with codes whose scales are [heads, 1, positions]:
    of each 64 positions in 255ths of the largest product."""
    out = np.zeros_like(weights)
    for first in range(0, weights.shape[2], 64):
        granule = np.s_[:, :, first : first + 64]
        products = weights[granule] * scales[granule]
        unit = products.max(axis=2, keepdims=True) / 255
        size = np.where(scales[granule] > 0, scales[granule], 1)
        out[granule] = np.rint(products / np.where(unit > 0, unit, 1)) * unit / size
    return out


def assert_close(shape: Shape, found: F32, expected: npt.NDArray[np.float64]) -> None:
    """In codes queries and the weights of values have 15 bits, or the 8 that expected_rows() has too, and float32 may
    round a value to the code beside."""
    difference = np.abs(found - expected)
    if set(shape.codecs) & set(TURBOQUANT):
        assert np.quantile(difference, 0.9) < 4e-4
        assert difference.max() < 0.3
    elif "q8" in shape.codecs:
        assert np.quantile(difference, 0.9) < 2e-4
        assert difference.max() < 0.03
    else:
        np.testing.assert_array_less(difference, 3e-6)


def expected_rows(shape: Shape, table: F32, ids: I32, isa: str) -> npt.NDArray[np.float64]:
    """Causal attention of a whole sequence in float64, on keys and values rounded as the codecs round them, and with
    AVX-512 the queries and weights that are multiplied with codes."""
    q_width, kv_width = shape.widths
    x = table[ids]
    q = x[:, :q_width].astype(np.float64).reshape(len(ids), shape.num_heads, -1)
    group = shape.num_heads // shape.num_kv_heads
    kv = x[:, q_width : q_width + kv_width], x[:, q_width + kv_width :]
    heads = [a.reshape(len(ids), shape.num_kv_heads, -1) for a in kv]
    if shape.codecs[0] in ("q8", *TURBOQUANT):
        heads[0], q = rotated(heads[0]), rotated(q.astype(np.float32)).astype(np.float64)
        if isa == "avx512":
            q = rounded(q.astype(np.float32), "q8")[0]
    if shape.codecs[1] in TURBOQUANT:
        heads[1] = rotated(heads[1])
    (k, _), (v, v_scale) = (
        tuple(np.repeat(x, group, axis=1) for x in rounded(a, codec))
        for a, codec in zip(heads, shape.codecs, strict=True)
    )
    scores = np.einsum("thd,shd->hts", q, k) * shape.head_dim**-0.5
    scores[:, ~np.tri(len(ids), dtype=bool)] = -np.inf
    if shape.window is not None:
        scores[:, np.tri(len(ids), k=-shape.window, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    total = weights.sum(axis=2, keepdims=True)
    if isa == "avx512" and shape.codecs[1] in ("q8", *TURBOQUANT):
        weights = in_bytes(weights, v_scale.transpose(1, 2, 0))
    out: npt.NDArray[np.float64] = np.einsum("hts,shd->thd", weights / total, v)
    if shape.codecs[1] in TURBOQUANT:
        out = rotated(out.astype(np.float32)).astype(np.float64)
    return out.reshape(len(ids), -1)


SHAPES = [
    Shape(),
    Shape(codecs=("f32", "f32")),
    Shape(9, 3, 64, 16, ("f16", "f32")),
    Shape(2, 2, 8, 8, ("f32", "f16")),
    Shape(7, 1, 40, 64),  # seven heads to a key: two register tiles
    Shape(28, 1, 8, 32),  # more heads to a key than a register tile or a split tile has rows
    Shape(1, 1, 256, 16),
    Shape(9, 3, 64, 16, ("q8", "q8")),
    Shape(4, 2, 40, 8, ("q8", "f16")),
    Shape(14, 1, 16, 256, ("f32", "q8")),
    Shape(5, 1, 24, 8, ("q8", "q8")),  # pages of half a vector, columns of one and a half
    Shape(3, 1, 128, 32, ("q8", "q8")),
    Shape(9, 3, 64, 16, ("tq4", "tq4")),
    Shape(9, 3, 64, 16, ("tq3", "tq3")),
    Shape(9, 3, 64, 16, ("tq2", "tq2")),
    Shape(4, 2, 48, 32, ("q8", "tq4")),  # rotated in blocks of 16
    Shape(7, 1, 80, 16, ("tq3", "tq2")),  # third bits of keys for 96 columns
    Shape(5, 1, 16, 64, ("tq2", "tq3")),
    Shape(2, 1, 256, 256, ("f16", "tq3")),
    Shape(4, 2, 128, 16, ("tq4", "f32")),
    Shape(3, 1, 16, 16, ("f16", "f16"), 1),
    Shape(9, 3, 64, 16, ("f32", "f32"), 5),  # less than the rows of a register tile
    Shape(2, 1, 256, 16, ("q8", "q8"), 100),
    Shape(4, 2, 40, 8, ("q8", "f16"), 256),
    Shape(7, 1, 40, 64, ("f16", "f16"), 257),
    Shape(5, 1, 24, 8, ("q8", "q8"), 13),
    Shape(28, 1, 8, 32, ("f16", "f32"), 270),  # more heads to a key than a split tile has rows
    Shape(9, 3, 64, 256, ("tq4", "tq3"), 300),
    Shape(2, 2, 32, 16, ("q8", "q8"), 4000),  # longer than the text
]


@pytest.mark.parametrize("isa", [*NATIVE, "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whole_sequences_equal_float64(shape: Shape, isa: str) -> None:
    lengths = (300, 1, 17)
    table, ids, pages = random_table(shape), random_ids(lengths), scattered_pages(shape, lengths)
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=pages.size, table=table)
    found = lab.run(ids, [(s, 0, n) for s, n in enumerate(lengths)], pages)
    expected = np.concatenate([expected_rows(shape, table, i, isa) for i in ids])
    assert_close(shape, found, expected)


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_law_1_bits_do_not_depend_on_the_batch(shape: Shape, isa: str) -> None:
    lengths = (540, 259, 30)  # three segments, just over one, less than one
    table, ids, pages = random_table(shape), random_ids(lengths), scattered_pages(shape, lengths)
    lab = Lab(shape, isa=isa, num_threads=1, num_pages=pages.size, table=table)
    whole = [lab.run(ids, [(s, 0, n)], pages) for s, n in enumerate(lengths)]
    rng = np.random.default_rng(6)
    for num_threads in (2, 3):
        lab = Lab(shape, isa=isa, num_threads=num_threads, num_pages=pages.size, table=table)
        done = [0] * len(lengths)
        while any(d < n for d, n in zip(done, lengths, strict=True)):
            spans = []
            for s in rng.permutation(len(lengths)):
                size = int(rng.choice([0, 1, 1, 2, 7, 40, 150]))
                end = min(lengths[s], done[s] + size)
                if end > done[s]:
                    spans.append((int(s), done[s], end))
                done[s] = max(done[s], end)
            if spans:
                found = lab.run(ids, spans, pages)
                expected = np.concatenate([whole[s][first:end] for s, first, end in spans])
                np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_law_1_sequences_that_share_pages_read_them_once(shape: Shape, isa: str) -> None:
    """Some share all their whole segments, some the first only, some none; one has a tail of several tokens."""
    prefixes, tails = (520, 520, 520, 260, 300, 0), (1, 40, 3, 7, 2, 290)
    lengths = tuple(p + t for p, t in zip(prefixes, tails, strict=True))
    table, ids, pages = random_table(shape), random_ids(lengths), scattered_pages(shape, lengths)
    for s in range(1, len(ids)):
        shared = prefixes[s] // shape.page_size
        ids[s][: shared * shape.page_size] = ids[0][: shared * shape.page_size]
    alone = Lab(shape, isa=isa, num_threads=1, num_pages=pages.size, table=table)
    whole = [alone.run(ids, [(s, 0, n)], pages) for s, n in enumerate(lengths)]
    for s in range(1, len(ids)):
        shared = prefixes[s] // shape.page_size
        pages[s, :shared] = pages[0, :shared]
    for num_threads in (1, 3):
        lab = Lab(shape, isa=isa, num_threads=num_threads, num_pages=pages.size, table=table)
        lab.run(ids, [(s, 0, n) for s, n in enumerate(lengths)], pages)
        for num_last in (1, 2):  # of each sequence
            spans = [(s, n - min(num_last, tails[s]), n) for s, n in enumerate(lengths)]
            for chosen in (spans, spans[:2], spans[::-2]):
                found = lab.run(ids, chosen, pages)
                expected = np.concatenate([whole[s][first:end] for s, first, end in chosen])
                np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("codec", kernels.codecs())
def test_later_tokens_and_stale_pages_never_leak(codec: str, isa: str) -> None:
    """A page's former contents, and the values of later tokens, are invisible: NaN and infinity included."""
    shape = Shape(codecs=(codec, codec))
    table = random_table(shape)
    q, _ = shape.widths
    table[0, q:] = np.nan
    table[1, q:] = np.inf
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=3, table=table)
    pages = np.array([[2, 0, 1]], np.int32)
    lab.run([np.arange(48, dtype=np.int32) % 2], [(0, 0, 48)], pages)  # every slot of every page: NaN or infinity
    ids = np.arange(2, 42, dtype=np.int32)
    clean = lab.run([ids], [(0, 0, 40)], pages)
    assert_close(shape, clean, expected_rows(shape, table, ids, isa))
    ids[25], ids[33] = 0, 1
    spoilt = lab.run([ids], [(0, 0, 40)], pages)
    np.testing.assert_array_equal(spoilt[:25], clean[:25])
    assert np.isnan(spoilt[25:]).all()


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("codec", kernels.codecs())
@pytest.mark.parametrize("window", [7, 260])
def test_what_a_window_has_passed_never_leaks(window: int, codec: str, isa: str) -> None:
    """NaN and infinity too: once the window is past them, the same bits as without them."""
    shape = Shape(codecs=(codec, codec), window=window)
    table, (ids,), pages = random_table(shape), random_ids((600,)), scattered_pages(shape, (600,))
    q, _ = shape.widths
    table[0, q:], table[1, q:] = np.nan, np.inf
    ids = np.maximum(ids, 2)
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=pages.size, table=table)
    clean = lab.run([ids], [(0, 0, 600)], pages)
    ids[[3, 290]], ids[[5, 300]] = 0, 1
    spoilt = lab.run([ids], [(0, 0, 600)], pages)
    seen = np.zeros(600, bool)
    for position in (3, 5, 290, 300):
        seen[position : position + window] = True
    np.testing.assert_array_equal(spoilt[~seen], clean[~seen])
    assert np.isnan(spoilt[seen]).all()
    one_by_one = np.concatenate([lab.run([ids], [(0, at, at + 1)], pages) for at in (302, 306, 307, 559, 560, 599)])
    np.testing.assert_array_equal(one_by_one, spoilt[[302, 306, 307, 559, 560, 599]])


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("codec", ["q8", *TURBOQUANT])
def test_values_of_any_size_weigh_what_they_should(codec: str, isa: str) -> None:
    """Weights are coded times their values' scales: tiny and huge values side by side, and zeros, whose weight counts
    in the sum alone."""
    shape = Shape(codecs=("f32", codec))
    q, kv = shape.widths
    table = random_table(shape)
    sizes = np.float32(10) ** np.random.default_rng(11).uniform(-3, 3, (VOCAB, 1)).astype(np.float32)
    table[:, q + kv :] *= sizes
    table[::5, q + kv :] = 0
    ids = random_ids((330,))
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=21, table=table)
    found = lab.run(ids, [(0, 0, 330)], np.arange(21, dtype=np.int32)[None])
    expected = expected_rows(shape, table, ids[0], isa)
    assert np.isfinite(found).all()
    difference = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1).clip(1e-6)
    assert np.quantile(difference, 0.9) < 1e-3
    assert difference.max() < 0.05


@pytest.mark.parametrize("isa", NATIVE)
def test_large_scores_do_not_overflow(isa: str) -> None:
    shape = Shape(codecs=("f32", "f32"))
    table = random_table(shape) * np.float32(300)
    ids = random_ids((290,))
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=19, table=table)
    found = lab.run(ids, [(0, 0, 290)], np.arange(19, dtype=np.int32)[None])
    assert np.isfinite(found).all()
    # Scores of a million are rounded to a sixteenth: compare where one key wins clearly.
    expected = expected_rows(shape, table, ids[0], isa)
    close = np.isclose(found, expected, rtol=1e-3, atol=1.0).mean()
    assert close > 0.99


@pytest.mark.parametrize("isa", [*NATIVE, "reference"])
def test_means_of_keys_change_no_answer_but_spare_error(isa: str) -> None:
    """Keys with a large part in common: taken off before coding, 4 bits say as much as without it."""
    shape = Shape(9, 3, 64, 16, ("tq4", "f32"))
    table, ids, pages = random_table(shape), random_ids((60,)), scattered_pages(shape, (60,))
    q, kv = shape.widths
    common = np.random.default_rng(9).normal(0, 30, kv).astype(np.float32)
    clean = Lab(shape, isa=isa, num_threads=2, num_pages=pages.size, table=table).run(ids, [(0, 0, 60)], pages)
    table[:, q : q + kv] += common
    lab = Lab(shape, isa=isa, num_threads=2, num_pages=pages.size, table=table)
    spoilt = lab.run(ids, [(0, 0, 60)], pages)
    sums = lab.program.key_sums(ids[0], 10)
    np.testing.assert_allclose(sums[0], table[ids[0][10:], q : q + kv].sum(axis=0), rtol=1e-4)
    lab.program.set_key_means(np.ascontiguousarray(common[None]))
    centred = lab.run(ids, [(0, 0, 60)], pages)
    assert np.abs(spoilt - clean).mean() > 20 * np.abs(centred - clean).mean()
    assert np.quantile(np.abs(centred - clean), 0.9) < 1e-3


def test_key_sums_leave_the_pages_alone() -> None:
    shape = Shape(2, 1, 16, 16, ("tq2", "tq2"))
    table, ids = random_table(shape), random_ids((40, 100))
    lab = Lab(shape, isa=NATIVE[0], num_threads=1, num_pages=3, table=table)
    pages = np.array([[2, 0, 1]], np.int32)
    whole = lab.run(ids[:1], [(0, 0, 40)], pages)
    lab.run(ids[:1], [(0, 0, 39)], pages)
    lab.program.key_sums(ids[1], 0)  # more tokens than there are pages for
    np.testing.assert_array_equal(lab.run(ids[:1], [(0, 39, 40)], pages), whole[39:])
    with pytest.raises(ValueError, match="from `first` on"):
        lab.program.key_sums(ids[1], 100)

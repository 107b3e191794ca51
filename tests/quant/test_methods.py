"""Methods against plain rounding, and on matrices that nobody would train."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, format_of
from farthing.kernels.plan import QTensor
from farthing.quant.gptq import DAMPING, gptq, target
from farthing.quant.grid import grid_of, grids
from farthing.quant.methods import METHODS, Statistics, quantize_matrix, relative_error

F32 = npt.NDArray[np.float32]
ROWS, COLS = 8, 256
ONE_OF_EACH_KIND = ("q4_0", "q4_1", "q4_k", "q3_k", "tq2_0", "q3", "c3", "t2")  # of levels and of scales
SEARCHING = ("search", "hqq", "importance", "gptq")


def weights(seed: int, rows: int = ROWS, cols: int = COLS) -> F32:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, cols)) * np.exp(rng.normal(0, 0.3, (rows, 1)))
    return (values * np.where(rng.random((rows, cols)) < 0.01, 4, 1) * 0.05).astype(np.float32)


def statistics(seed: int, cols: int = COLS, floor: float = 0.1) -> Statistics:
    """Correlated inputs of uneven size; `floor` of the mean is the least that any direction has."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((300, cols)) @ (np.eye(cols) + rng.standard_normal((cols, cols)) / np.sqrt(cols))
    inputs *= np.exp(rng.normal(0, 0.7, cols))
    gram = inputs.T @ inputs / len(inputs)
    return Statistics((gram + floor * np.diag(gram).mean() * np.eye(cols)).astype(np.float32), len(inputs))


def values_of(tensor: QTensor) -> F32:
    return dequantize(tensor.data, tensor.format, tensor.rows, tensor.cols)


@pytest.mark.parametrize("format", grids())
@pytest.mark.parametrize("method", SEARCHING)
def test_every_method_fills_every_format_and_beats_plain_rounding(format: str, method: str) -> None:
    matrix, seen = weights(1), statistics(2)
    measured_by = seen if method in ("importance", "gptq") else None
    plain, tensor = (quantize_matrix(matrix, format, name, seen) for name in ("rtn", method))
    assert (tensor.format, tensor.rows, tensor.cols, len(tensor.data)) == (format, ROWS, COLS, len(plain.data))
    bound = 1.05 if method == "hqq" else 1.0  # HQQ minimises another sum
    assert relative_error(matrix, tensor, measured_by) <= bound * relative_error(matrix, plain, measured_by)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(sorted(grids())), st.integers(0, 2**32 - 1))
def test_gptq_loses_no_more_of_the_output_than_plain_rounding(format: str, seed: int) -> None:
    """GPTQ looks at the gram with DAMPING of the mean added to its diagonal. That makes every loss larger, and that of
    another rounding by at most DAMPING * mean / (the gram's least eigenvalue) of itself: the tolerance."""
    matrix, seen = weights(seed, rows=4), statistics(seed + 1)
    eigenvalues = np.linalg.eigvalsh(seen.gram.astype(np.float64))
    tolerance = 1 + DAMPING * eigenvalues.mean() / eigenvalues.min()
    ours, plain = (
        relative_error(matrix, quantize_matrix(matrix, format, name, seen), seen) for name in ("gptq", "rtn")
    )
    assert ours <= tolerance * plain


@pytest.mark.parametrize("format", ["q3", "q4_k", "c3", "t2", "q3_k"])
def test_sweeps_never_make_it_worse(format: str) -> None:
    matrix, seen, grid = weights(5), statistics(6), grid_of(format)
    ready = target(grid, seen.gram)
    damped = seen.gram + np.eye(COLS) * DAMPING * np.diag(seen.gram).mean()
    losses = []
    for num_sweeps in range(4):
        blocks = gptq(grid, np.ascontiguousarray(matrix.T), ready, num_sweeps).blocks()
        error = (matrix - dequantize(blocks.view(np.uint8), format, ROWS, COLS)).astype(np.float64)
        losses.append(float(np.vdot(error, error @ damped)))
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(losses))
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_know_of_each_other(method: str) -> None:
    matrix, seen = weights(3, rows=6), statistics(4)
    whole = values_of(quantize_matrix(matrix, "q3", method, seen))
    part = values_of(quantize_matrix(matrix[2:4], "q3", method, seen))
    np.testing.assert_allclose(whole[2:4], part, rtol=0, atol=0.2 * np.abs(matrix).max())
    same = (whole[2:4] == part).mean()
    assert same > 0.9, same  # sums of another width may round a tie the other way


def degenerate(kind: str) -> tuple[F32, Statistics]:
    matrix, gram = weights(7), statistics(8).gram.copy()
    match kind:
        case "zero rows":
            matrix[::2] = 0
        case "constant rows":
            matrix[0], matrix[1] = 0.3, -0.3
        case "one column dominates":
            matrix[:, 7] = 100
            gram[:, 7] *= 1e4
            gram[7] *= 1e4
        case "gram of rank 1":
            gram[:] = np.outer(gram[0], gram[0])
        case "gram of zeros":
            gram[:] = 0
        case "one column alone seen":
            gram[:] = 0
            gram[9, 9] = 5
        case "tiny":
            matrix *= np.float32(1e-6)
        case "huge":
            matrix *= np.float32(300)
        case "large gram":
            gram *= np.float32(1e30)
    return matrix, Statistics(gram, 10)


@pytest.mark.parametrize("format", ONE_OF_EACH_KIND)
@pytest.mark.parametrize(
    "kind",
    ["zero rows", "constant rows", "one column dominates", "gram of rank 1", "gram of zeros", "one column alone seen",
     "tiny", "huge", "large gram"],
)  # fmt: skip
def test_odd_input_gives_finite_weights(format: str, kind: str) -> None:
    matrix, seen = degenerate(kind)
    for method in SEARCHING:
        found = values_of(quantize_matrix(matrix, format, method, seen))
        assert np.isfinite(found).all(), method
        if kind == "zero rows":
            assert np.abs(found[::2]).max() <= 127 * 2.0**-23, method  # the tables of c4 and c3 have no 0
        if kind in ("huge", "constant rows") and method != "gptq":  # gptq trades weights for each other
            assert np.abs(found - matrix).max() <= 1.3 * np.abs(matrix).max(), method


def test_the_same_input_gives_the_same_bytes() -> None:
    matrix, seen = weights(9), statistics(10)
    first, second = (quantize_matrix(matrix, "q3", "gptq", seen) for _ in range(2))
    np.testing.assert_array_equal(first.data, second.data)


def test_a_vector_is_a_matrix_of_one_row() -> None:
    tensor = quantize_matrix(weights(11, rows=1)[0], "q4", "search")
    assert (tensor.rows, tensor.cols) == (1, COLS)


def test_what_cannot_be_done_is_refused_in_words() -> None:
    matrix, seen = weights(12), statistics(13)
    with pytest.raises(InvalidRequest, match="method is 'awq'; allowed: rtn, search"):
        quantize_matrix(matrix, "q4", "awq", seen)
    with pytest.raises(InvalidRequest, match="gptq needs statistics"):
        quantize_matrix(matrix, "q4", "gptq")
    with pytest.raises(InvalidRequest, match=r"128x128.*256"):
        quantize_matrix(matrix, "q4", "importance", statistics(1, cols=128))
    with pytest.raises(InvalidRequest, match=r"f16.*no codes"):
        quantize_matrix(matrix, "f16", "search")
    with pytest.raises(InvalidRequest, match="not finite"):
        quantize_matrix(matrix, "q4", "gptq", Statistics(np.full((COLS, COLS), np.nan, np.float32), 1))
    with pytest.raises(InvalidRequest, match="blocks hold 32"):
        quantize_matrix(matrix[:, :200], "q4", "search")


@pytest.mark.parametrize("format", grids())
@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_that_no_scale_holds_are_refused(format: str, bad: float) -> None:
    matrix = weights(14)
    matrix[1, 3] = bad
    with pytest.raises(InvalidRequest, match=r"not finite|too large"):
        quantize_matrix(matrix, format, "search")


def test_the_relative_error_is_the_share_of_the_output_that_is_lost() -> None:
    matrix, seen = weights(15), statistics(16)
    tensor = quantize_matrix(matrix, "q3", "search")
    error = (matrix - values_of(tensor)).astype(np.float64)
    expected = np.trace(error @ seen.gram @ error.T) / np.trace(matrix @ seen.gram @ matrix.T)
    assert relative_error(matrix, tensor, seen) == pytest.approx(expected, rel=1e-4)
    assert relative_error(matrix, tensor, None) == pytest.approx((error**2).sum() / (matrix**2).sum(), rel=1e-4)
    zeros = np.zeros_like(matrix)
    assert relative_error(zeros, quantize_matrix(zeros, "q3", "search"), seen) == 0.0


def test_bits_buy_quality() -> None:
    matrix, seen = weights(17), statistics(18)
    own = ("q6", "q5", "q4", "c4", "q3", "c3", "q2", "t2")
    errors = [relative_error(matrix, quantize_matrix(matrix, format, "gptq", seen), seen) for format in own]
    bits = [format_of(format).bits_per_weight for format in own]
    assert bits == sorted(bits, reverse=True)
    assert errors == sorted(errors)

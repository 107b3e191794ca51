"""TurboQuant against its theory: distortion, bias, variance, at several dimensions; and the codes that are served."""

import math

import numpy as np
import pytest

from farthing import kernels
from farthing.errors import InvalidRequest
from farthing.kernels.codecs import CODECS, bits_per_value, codecs_name, head_bytes, parse_codecs
from farthing.kernels.plan import KVSpec
from farthing.kernels.turboquant import (
    TurboQuant,
    TurboQuantProd,
    code_unit,
    code_values,
    codebook,
    distortion,
    hadamard,
)

# The paper's table for large d, as recomputed for N(0, 1): E||x - x~||^2 at 1 to 5 bits.
LARGE = {1: 0.36338, 2: 0.11748, 3: 0.03455, 4: 0.00950, 5: 0.00250}


def unit_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("bits", LARGE)
def test_theory_for_large_dimensions_is_the_gaussian_quantizers(bits: int) -> None:
    assert distortion(4096, bits) == pytest.approx(LARGE[bits], rel=2e-3)
    assert distortion(64, bits) < LARGE[bits]  # the Beta distribution has lighter tails
    assert distortion(64, 4) == pytest.approx(0.0091, rel=0.01)


def test_codebooks_of_one_bit_are_known_in_closed_form() -> None:
    """+-E|x| of a coordinate: gamma(d/2) / (sqrt(pi) gamma((d + 1)/2))."""
    for dim in (2, 3, 16, 64, 128):
        expected = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
        np.testing.assert_allclose(codebook(dim, 1), [-expected, expected], rtol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [16, 64, 80, 128, 256])
def test_measured_distortion_is_theorys(dim: int, bits: int) -> None:
    quantizer = TurboQuant(dim, bits, seed=dim)
    x = unit_vectors(200_000 // dim, dim)
    codes, norms = quantizer.quantize(x)
    assert codes.max() < 2**bits
    measured = float(((x - quantizer.dequantize(codes, norms)) ** 2).sum(axis=1).mean())
    assert measured == pytest.approx(distortion(dim, bits), rel=0.02)
    assert measured > 4.0**-bits * 0.98 if dim >= 64 else measured > 0  # no quantizer of long vectors does better


def test_norms_are_kept_apart() -> None:
    x = unit_vectors(50, 64) * np.logspace(-3, 5, 50)[:, None]
    quantizer = TurboQuant(64, 4)
    found = quantizer.dequantize(*quantizer.quantize(x))
    relative = np.linalg.norm(found - x, axis=1) / np.linalg.norm(x, axis=1)
    assert relative.max() < 0.2  # sqrt(0.0091) in the mean
    assert not quantizer.dequantize(*quantizer.quantize(np.zeros((1, 64)))).any()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_prod_is_unbiased_with_theorys_variance(bits: int) -> None:
    """Var<y, x~> = (pi / 2 - 1 / d... ) ||y||^2 / d * D_mse(bits - 1): each draw has a projection of its own."""
    dim, draws = 64, 1500
    [x], [y] = unit_vectors(1, dim, 1), unit_vectors(1, dim, 2)
    errors, residuals, along = [], [], []
    for seed in range(draws):
        quantizer = TurboQuantProd(dim, bits, seed)
        codes, norms, signs, residual_norms = quantizer.quantize(x[None])
        found = quantizer.dequantize(codes, norms, signs, residual_norms)[0]
        errors.append(float(y @ (found - x)))
        residual = x if quantizer.mse is None else x - quantizer.mse.dequantize(codes, norms)[0]
        residuals.append(float(residual @ residual))
        along.append(float(y @ residual) ** 2)
    error = np.array(errors)
    # Of the projection alone, given the residual r: pi / 2 ||r||^2 ||y||^2 / d - <y, r>^2 / d.
    expected = math.pi / 2 * np.mean(residuals) / dim - np.mean(along) / dim
    assert abs(error.mean()) < 4 * math.sqrt(expected / draws)
    assert error.var() == pytest.approx(expected, rel=0.15)
    stage = 1.0 if bits == 1 else distortion(dim, bits - 1)
    assert np.mean(residuals) == pytest.approx(stage, rel=0.02)


def test_mse_alone_is_biased_where_prod_is_not() -> None:
    """At one bit a product shrinks by 2 / pi."""
    x = unit_vectors(4000, 64, 3)
    quantizer = TurboQuant(64, 1)
    found = quantizer.dequantize(*quantizer.quantize(x))
    assert float((x * found).sum(axis=1).mean()) == pytest.approx(2 / math.pi, rel=0.02)


def test_served_codes_are_the_codebook_in_whole_numbers() -> None:
    for dim in (16, 64, 128):
        for bits in (2, 3, 4):
            exact = codebook(dim, bits) * code_unit(dim, bits)
            served = code_values(dim, bits)
            assert served[-1] == 127 == -served[0]
            assert np.abs(served - exact).max() <= 0.5
            # Rounding the centroids costs next to nothing of the distortion.
            x = hadamard(unit_vectors(3000, dim))
            edges = (served[1:].astype(float) + served[:-1]) / 2
            nearest = served[np.searchsorted(edges, x * code_unit(dim, bits))] / code_unit(dim, bits)
            assert ((x - nearest) ** 2).sum(axis=1).mean() == pytest.approx(distortion(dim, bits), rel=0.03)


def test_hadamard_is_its_own_inverse_and_keeps_norms() -> None:
    for n in (8, 40, 48, 64, 96):
        x = np.random.default_rng(n).standard_normal((3, n))
        np.testing.assert_allclose(hadamard(hadamard(x)), x, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(hadamard(x), axis=1), np.linalg.norm(x, axis=1))


def test_dimensions_and_bits_out_of_range() -> None:
    for dim, bits in ((1, 4), (64, 0), (64, 9)):
        with pytest.raises(ValueError, match="allowed"):
            codebook(dim, bits)
    with pytest.raises(ValueError, match="bits is 0"):
        TurboQuantProd(64, 0)


def test_memory_with_norms_counted() -> None:
    """The issue's bounds for head_dim 64: 0.30 of float16's for tq4, 0.36 with the layers that keep more."""
    assert [bits_per_value(c, c, 64) for c in CODECS] == [32, 16, 8.5, 4.25, 3.25, 2.25]
    assert bits_per_value("q8", "tq4", 64) == 6.375
    spec = KVSpec(30, 3, 64, 1, k_codec="tq4", v_codec="tq4")
    half = KVSpec(30, 3, 64, 1, k_codec="f16", v_codec="f16")
    assert 2 * head_bytes("tq4", 64) <= 0.30 * 2 * head_bytes("f16", 64)
    assert spec.token_bytes <= 0.36 * half.token_bytes
    assert [spec.codecs_of(layer) for layer in (0, 1, 2, 27, 28, 29)] == [
        ("q8", "q8"), ("q8", "q8"), ("tq4", "tq4"), ("tq4", "tq4"), ("q8", "q8"), ("q8", "q8"),
    ]  # fmt: skip
    mixed = KVSpec(30, 3, 64, 1, k_codec="f16", v_codec="tq2")
    assert mixed.codecs_of(0) == ("f16", "q8")


def test_names_of_codecs() -> None:
    assert parse_codecs("q8") == ("q8", "q8")
    assert parse_codecs("q8/tq4") == ("q8", "tq4")
    assert codecs_name("q8", "tq4") == "q8/tq4"
    assert codecs_name("f16", "f16") == "f16"
    for text in ("", "q9", "q8/", "q8/q8/q8", "Q8", "tq4 / q8"):
        with pytest.raises(InvalidRequest, match="allowed: f32, f16, q8, tq4"):
            parse_codecs(text)


@pytest.mark.parametrize(("head_dim", "page_size", "what"), [(24, 16, "head_dim"), (64, 8, "page_size")])
def test_sizes_that_turboquant_does_not_take(head_dim: int, page_size: int, what: str) -> None:
    from farthing.kernels.plan import Plan

    for isa in (*kernels.instruction_sets(), "reference"):
        with pytest.raises(InvalidRequest, match=f"tq4 needs a {what} that is a multiple of 16"):
            kernels.load(Plan({}, (), 1, {}), KVSpec(1, 1, head_dim, 1, page_size, "q8", "tq4"), isa=isa)

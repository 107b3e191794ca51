"""TurboQuant: a random rotation, then the best scalar quantizer for what a rotation leaves (arXiv 2504.19874).

A unit vector of d dimensions, rotated at random, has coordinates x with density proportional to (1 - x^2)^((d-3)/2),
whatever the vector was. So one codebook, made once per d and number of bits by Lloyd-Max, serves all vectors; the norm
is stored beside the codes. The same idea stands in DRIVE and EDEN (arXiv 2105.08339, 2108.08842), in HIGGS (2411.17525)
and, for the rotation, in QuaRot (2404.00456).

`codebook` is what the KV codecs tq4, tq3 and tq2 use. `TurboQuant` and `TurboQuantProd` are the paper's two algorithms,
for reference and for measuring: no answer is made with them.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["TurboQuant", "TurboQuantProd", "code_unit", "code_values", "codebook", "distortion", "hadamard"]

F64 = npt.NDArray[np.float64]

GRID = 1 << 16  # points that stand for the density
MOST_STEPS = 5000
TOLERANCE = 1e-12
CODE_MAX = 127  # of the largest centroid, where products are of integers
MOST_BITS = 8


def _check(dim: int, bits: int) -> None:
    if dim < 2:
        raise ValueError(f"dim is {dim}; allowed: 2 or more")
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits is {bits}; allowed: 1 to {MOST_BITS}")


def _density(dim: int) -> tuple[F64, F64]:
    """Points x [GRID] in (-1, 1), ascending, and their probabilities [GRID].

    x = sin t has density cos(t)^(dim - 2) in t: bounded for every dim >= 2. Points lie evenly in t, where there is any
    probability to speak of.
    """
    most = min(np.pi / 2, 12 / np.sqrt(dim))
    t = (np.arange(GRID) + 0.5) / GRID * 2 * most - most
    weight = np.cos(t) ** (dim - 2)
    return np.sin(t), weight / weight.sum()


@lru_cache(maxsize=64)
def _lloyd_max(dim: int, bits: int) -> tuple[F64, float]:
    """Centroids [2**bits], ascending and symmetric, and the mean squared error of a coordinate."""
    x, p = _density(dim)
    mass, moment = (np.concatenate([[0.0], np.cumsum(v)]) for v in (p, p * x))  # [GRID + 1], up to each point
    # From the density's quantiles, at which Lloyd's iteration finds the one optimum of a log-concave density.
    centroids = np.interp((np.arange(2**bits) + 0.5) / 2**bits, mass[1:], x)
    for _ in range(MOST_STEPS):
        edges = np.concatenate([[0], np.searchsorted(x, (centroids[1:] + centroids[:-1]) / 2), [GRID]])
        share = np.diff(mass[edges])
        new = np.divide(np.diff(moment[edges]), share, out=centroids.copy(), where=share > 0)
        new = (new - new[::-1]) / 2
        moved = float(np.abs(new - centroids).max())
        centroids = new
        if moved < TOLERANCE:
            break
    nearest = centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, x)]
    centroids.flags.writeable = False
    return centroids, float((p * (x - nearest) ** 2).sum())


def codebook(dim: int, bits: int) -> F64:
    """Centroids [2**bits], ascending, of a coordinate of a random unit vector in `dim` dimensions (Lloyd-Max).

    Raises ValueError for a dim below 2, or bits outside 1 to 8.
    """
    _check(dim, bits)
    return _lloyd_max(dim, bits)[0]


def distortion(dim: int, bits: int) -> float:
    """The mean squared error E||x - x~||^2 that theory gives for unit vectors x; raises ValueError as codebook does."""
    _check(dim, bits)
    return dim * _lloyd_max(dim, bits)[1]


def code_values(dim: int, bits: int) -> npt.NDArray[np.int8]:
    """The codebook [2**bits] in whole 127ths of its largest centroid, as the kernels multiply it."""
    return np.rint(codebook(dim, bits) * code_unit(dim, bits)).astype(np.int8)


def code_unit(dim: int, bits: int) -> float:
    """What a unit vector's coordinate is multiplied by to be in the unit of `code_values`."""
    return CODE_MAX / float(codebook(dim, bits)[-1])


def hadamard(x: npt.NDArray[np.floating]) -> F64:
    """x [..., n] through the orthonormal Walsh-Hadamard transform of each block of n; a block is the largest power of
    two that divides n. Its own inverse."""
    n = x.shape[-1]
    size = n & -n
    blocks = np.asarray(x, np.float64).reshape(*x.shape[:-1], n // size, size)
    signs = np.ones((1, 1))  # [size, size]
    while len(signs) < size:
        signs = np.block([[signs, signs], [signs, -signs]])
    return np.asarray((blocks @ (signs / np.sqrt(size))).reshape(x.shape), np.float64)


class TurboQuant:
    """TurboQuant_mse (the paper's algorithm 1): codes of `bits` bits and a norm per vector.

    rotation: an orthogonal matrix from the QR decomposition of a Gaussian one, drawn with `seed`.
    Raises ValueError for a dim below 2, or bits outside 1 to 8.
    """

    def __init__(self, dim: int, bits: int, seed: int = 0) -> None:
        self.dim, self.bits = dim, bits
        self.centroids = codebook(dim, bits)
        gaussian = np.random.default_rng([seed, 2]).standard_normal((dim, dim))
        q, r = np.linalg.qr(gaussian)
        self.rotation: F64 = q * np.sign(np.diag(r))  # [dim, dim], uniform among the orthogonal ones

    def quantize(self, x: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.uint8], F64]:
        """Vectors x [n, dim] as codes [n, dim] and norms [n]."""
        norms = np.linalg.norm(np.asarray(x, np.float64), axis=1)
        units = np.divide(x, norms[:, None], out=np.zeros(x.shape), where=norms[:, None] > 0)
        edges = (self.centroids[1:] + self.centroids[:-1]) / 2
        return np.searchsorted(edges, units @ self.rotation.T).astype(np.uint8), norms

    def dequantize(self, codes: npt.NDArray[np.uint8], norms: F64) -> F64:
        """The vectors [n, dim] that codes and norms say."""
        return np.asarray(self.centroids[codes] @ self.rotation * norms[:, None], np.float64)


class TurboQuantProd:
    """TurboQuant_prod (the paper's algorithm 2): bits - 1 bits as above, and one bit per coordinate for the residual
    by a quantized Johnson-Lindenstrauss transform (QJL, arXiv 2406.03482). Products with it are unbiased.

    Raises ValueError for a dim below 2, or bits outside 1 to 9.
    """

    def __init__(self, dim: int, bits: int, seed: int = 0) -> None:
        if bits < 1:
            raise ValueError(f"bits is {bits}; allowed: 1 to {MOST_BITS + 1}")
        self.dim, self.bits = dim, bits
        self.mse = TurboQuant(dim, bits - 1, seed) if bits > 1 else None
        self.projection: F64 = np.random.default_rng([seed, 1]).standard_normal((dim, dim))

    def quantize(self, x: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.uint8], F64, npt.NDArray[np.int8], F64]:
        """Vectors x [n, dim] as codes [n, dim] and norms [n], signs [n, dim] and residual norms [n]."""
        wide = np.asarray(x, np.float64)
        if self.mse is None:
            codes, norms = np.zeros(wide.shape, np.uint8), np.zeros(len(wide))
            residual = wide
        else:
            codes, norms = self.mse.quantize(wide)
            residual = wide - self.mse.dequantize(codes, norms)
        signs = np.where(residual @ self.projection.T >= 0, 1, -1).astype(np.int8)
        return codes, norms, signs, np.linalg.norm(residual, axis=1)

    def dequantize(
        self, codes: npt.NDArray[np.uint8], norms: F64, signs: npt.NDArray[np.int8], residual_norms: F64
    ) -> F64:
        """Vectors [n, dim] whose product with any y is, in the mean over projections, that of the vectors given."""
        scale = np.sqrt(np.pi / 2) / self.dim * residual_norms[:, None]
        residual = np.asarray(signs @ self.projection * scale, np.float64)
        return residual if self.mse is None else self.mse.dequantize(codes, norms) + residual

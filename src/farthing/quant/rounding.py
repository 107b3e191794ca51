"""Rounding a block of columns under a quadratic measure, and the choice among several scales by what they cost.

Arrays have columns first: x is [m, n], m columns of a block in n rows of the matrix, so that a column is contiguous. A
further axis of candidates may stand between: [m, candidates, n].

The measure of a block's errors e is e^T H e. With inv(H) = U^T U, U upper triangular, that is the sum over columns j of
((e_j - what the columns before it owe it) / U_jj)^2: so columns are rounded one after the other and each error is
taken off those after it, in proportion U_jk / U_jj. This is GPTQ (arXiv 2210.17323), also known as Babai's rounding.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.quant.grid import Grid
from farthing.quant.scales import NestedScales, Scales, Units

__all__ = ["Measure", "Rounded", "best_pair", "diagonal", "fit_block", "measure", "round_block", "shared_units"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_STEP = 16  # columns whose errors are spread one by one; to those after them, by one product
# Of the scale that just reaches the largest weight: smaller ones cut a few large weights off, and serve the others.
_FACTORS = np.array([1.0, 0.93, 0.86, 0.79, 0.72, 0.64, 0.56], np.float32)[:, None]


@dataclass(frozen=True)
class Measure:
    """`shares` [m, m]: row j says which part of column j's error each later column takes; None where none does.
    `weights` [m]: what the square of an error costs that nobody takes."""

    shares: F32 | None
    weights: F32

    def part(self, start: int, stop: int) -> "Measure":
        shares = None if self.shares is None else self.shares[start:stop, start:stop]
        return Measure(shares, self.weights[start:stop])

    def without_shares(self) -> "Measure":
        return Measure(None, self.weights)


def measure(gram: F64) -> Measure:
    """Of a positive definite matrix [m, m]."""
    inverse = np.linalg.inv(gram)
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    pivots = np.diag(upper)
    return Measure((upper / pivots[:, None]).astype(np.float32), (1 / (pivots * pivots)).astype(np.float32))


def diagonal(weights: F32) -> Measure:
    return Measure(None, weights)


@dataclass(frozen=True)
class Rounded:
    levels: F32  # [m, ...]
    errors: F32  # [m, ...] of each column, with what earlier ones gave it
    loss: F32  # [...]


def _inverse(scale: F32) -> F32:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def round_block(grid: Grid, x: F32, scale: F32, offset: F32, measure: Measure, *, keep: bool = True) -> Rounded:
    """Round x [m, ...] to levels under scales and offsets [...]. x is overwritten. Without `keep`, only loss counts."""
    m, inverse, has_offset = len(x), _inverse(scale), grid.scales.has_offset
    shares, loss = measure.shares, np.zeros(x.shape[1:], np.float32)
    levels = np.empty_like(x) if keep else x[:0]
    for start in range(0, m, _STEP):
        stop = min(start + _STEP, m)
        for j in range(start, stop):
            level = grid.nearest((x[j] - offset) * inverse if has_offset else x[j] * inverse)
            if keep:
                levels[j] = level
            level *= scale
            if has_offset:
                level += offset
            error = x[j]
            error -= level
            np.multiply(error, error, out=level)
            level *= measure.weights[j]
            loss += level
            if shares is not None and j + 1 < stop:
                x[j + 1 : stop] -= shares[j, j + 1 : stop].reshape(-1, *(1,) * error.ndim) * error
        if shares is not None and stop < m:
            rest = x[stop:].reshape(m - stop, -1)
            rest -= shares[start:stop, stop:].T @ x[start:stop].reshape(stop - start, -1)
    return Rounded(levels, x, loss)


def best_pair(grid: Grid, x: F32, scales: F32, offsets: F32, measure: Measure) -> tuple[F32, F32]:
    """Of the pairs [candidates, n], for each row [n] the one under which rounding x [m, n] costs least."""
    tried = np.repeat(x[:, None], len(scales), axis=1)
    loss = round_block(grid, tried, scales, offsets, measure, keep=False).loss
    best = loss.argmin(axis=0)[None]
    return np.take_along_axis(scales, best, axis=0)[0], np.take_along_axis(offsets, best, axis=0)[0]


def wanted_pairs(grid: Grid, x: F32, weights: F32) -> tuple[F32, F32]:
    """Pairs [candidates, n] that may serve x [m, n]: scales that reach more or less far, each fitted to its levels."""
    levels, scales = grid.levels, grid.scales
    if scales.has_offset:
        low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
        scale = _FACTORS * ((high - low) / levels[-1])
        offset = np.minimum((low + high) / 2 - scale * (levels[-1] / 2), 0)
    else:
        scale = _FACTORS * (np.abs(x).max(axis=0) / -levels[0])
        if scales.is_signed:
            scale = np.concatenate([scale, -scale])
        offset = np.zeros_like(scale)
    return _fitted(grid, x, scale, offset, weights)


def _fitted(grid: Grid, x: F32, scale: F32, offset: F32, weights: F32) -> tuple[F32, F32]:
    """Pairs [candidates, n] moved to where the squared error [weighted by column] of the levels they give is least."""
    w, x = weights[:, None, None], x[:, None]
    level = grid.nearest((x - offset) * _inverse(scale) if grid.scales.has_offset else x * _inverse(scale))
    weighted = level * w
    squares, products = (weighted * level).sum(axis=0), (weighted * x).sum(axis=0)
    if not grid.scales.has_offset:
        return np.divide(products, squares, out=scale.copy(), where=squares > 0), offset
    total, levels, values = weights.sum(), weighted.sum(axis=0), (w * x).sum(axis=0)
    determinant = total * squares - levels * levels
    is_known = determinant > np.float32(1e-6) * total * squares
    fitted = np.divide(total * products - levels * values, determinant, out=scale.copy(), where=is_known)
    is_known &= fitted > 0
    fitted = np.where(is_known, fitted, scale)
    return fitted, np.where(is_known, np.minimum((values - fitted * levels) / total, 0), offset)


def fit_block(grid: Grid, x: F32, measure: Measure, scales: Scales) -> tuple[F32, F32]:
    """The stored pair [n] for x [m, n]: the best without shares, then the best of those beside it with them."""
    plain = measure.without_shares()
    wanted = wanted_pairs(grid, x, measure.weights)
    scale, offset = best_pair(grid, x, *scales.nearest(*wanted), plain)
    beside = [(scale, offset), *scales.beside(scale, offset)]
    return best_pair(grid, x, np.stack([s for s, _ in beside]), np.stack([o for _, o in beside]), measure)


def shared_units(grid: Grid, x: F32, measure: Measure) -> Units | None:
    """The units of a super-block x [super_block, n]; None where the format has none."""
    if not isinstance(grid.scales, NestedScales):
        return None
    plain = measure.without_shares()
    pairs = []
    for start in range(0, len(x), grid.block):
        part = slice(start, start + grid.block)
        wanted = wanted_pairs(grid, x[part], plain.weights[part])
        pairs.append(best_pair(grid, x[part], *wanted, plain.part(part.start, part.stop)))
    return grid.scales.units(np.stack([s for s, _ in pairs]), np.stack([o for _, o in pairs]))

"""Half-quadratic quantization (HQQ: Badri and Shaji, Mobius Labs, 2023): scales by a measure that forgives outliers.

What is minimised is the sum of |error|^0.7 instead of |error|^2. Half-quadratic splitting gives each weight a slack
that absorbs a large error for a price: (1) the slack is the error, shrunk by the rule of the exponent, (2) the zero
point is the one that fits the codes to the weights less their slack, (3) the codes are rounded again, at a rising
price. Where a format has no zero point the scale is fitted instead. Needs no calibration text.
"""

import numpy as np
import numpy.typing as npt

from farthing.quant.chosen import Chosen, empty_choice
from farthing.quant.grid import Grid
from farthing.quant.rounding import Measure, best_pair, diagonal, round_block, wanted_pairs
from farthing.quant.scales import NestedScales

__all__ = ["hqq"]

F32 = npt.NDArray[np.float32]

EXPONENT = 0.7
NUM_STEPS = 20
FIRST_PRICE, PRICE_GROWTH = 10.0, 1.01  # in weights that are scaled to a standard deviation of 1


def hqq(grid: Grid, weights: F32) -> Chosen:
    """weights [cols, n]."""
    chosen = empty_choice(grid, *weights.shape)
    for first in range(0, len(weights) // grid.block, grid.blocks):
        blocks = range(first, first + grid.blocks)
        pairs = [_pair(grid, weights[chosen.columns(block)]) for block in blocks]
        if isinstance(grid.scales, NestedScales):
            units = grid.scales.units(np.stack([s for s, _ in pairs]), np.stack([o for _, o in pairs]))
            chosen.set_units(first // grid.blocks, units)
        for block, pair in zip(blocks, pairs, strict=True):
            part = chosen.columns(block)
            stored = chosen.scales(block).nearest(*pair)
            chosen.scale[block], chosen.offset[block] = stored
            chosen.levels[part] = round_block(grid, weights[part].copy(), *stored, _flat(grid)).levels
    return chosen


def _flat(grid: Grid) -> Measure:
    return diagonal(np.ones(grid.block, np.float32))


def _pair(grid: Grid, x: F32) -> tuple[F32, F32]:
    """The wanted scale and offset [n] of a block x [m, n]: of those on the way, the one of least |error|^p."""
    scale, offset = best_pair(grid, x, *wanted_pairs(grid, x, _flat(grid).weights), _flat(grid))
    deviation = np.maximum(x.std(axis=0), np.float32(1e-20))
    price, least = np.float32(FIRST_PRICE), np.full_like(scale, np.inf)
    best_scale, best_offset = scale, offset
    for _ in range(NUM_STEPS):
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        levels = grid.nearest((x - offset) * inverse)
        error = (x - levels * scale - offset) / deviation
        size = np.abs(error)
        loss = (size ** np.float32(EXPONENT)).sum(axis=0)
        is_best = loss < least
        least = np.where(is_best, loss, least)
        best_scale, best_offset = np.where(is_best, scale, best_scale), np.where(is_best, offset, best_offset)
        shrunk = np.maximum(size - np.maximum(size, np.float32(1e-6)) ** np.float32(EXPONENT - 1) / price, 0)
        kept = x - np.copysign(shrunk, error) * deviation  # the weights less their slack
        if grid.scales.has_offset:
            offset = np.minimum((kept - levels * scale).mean(axis=0), 0)
        else:
            norm = (levels * levels).sum(axis=0)
            scale = np.divide((levels * kept).sum(axis=0), norm, out=scale.copy(), where=norm > 0)
        price *= np.float32(PRICE_GROWTH)
    return best_scale, best_offset

"""Scales by search: for each block the scale (and zero point) under which plain rounding has the least squared error.

As in k-quants, some twenty scales are tried, each fitted by least squares to the codes it gives. A weight for each
column makes it llama.cpp's importance matrix: the mean square of what the column is multiplied with.
"""

import numpy as np
import numpy.typing as npt

from farthing.quant.chosen import Chosen, empty_choice
from farthing.quant.grid import Grid
from farthing.quant.rounding import diagonal, fit_block, round_block, shared_units

__all__ = ["search"]

F32 = npt.NDArray[np.float32]


def search(grid: Grid, weights: F32, importance: F32) -> Chosen:
    """weights [cols, n], importance [cols] above 0."""
    measure, chosen = diagonal(importance), empty_choice(grid, *weights.shape)
    for block in range(len(weights) // grid.block):
        if block % grid.blocks == 0:
            start = block * grid.block
            group = slice(start, start + grid.super_block)
            units = shared_units(grid, weights[group], measure.part(group.start, group.stop))
            chosen.set_units(block // grid.blocks, units)
        part = chosen.columns(block)
        of_block = measure.part(part.start, part.stop)
        pair = fit_block(grid, weights[part], of_block, chosen.scales(block))
        chosen.scale[block], chosen.offset[block] = pair
        chosen.levels[part] = round_block(grid, weights[part].copy(), *pair, of_block).levels
    return chosen

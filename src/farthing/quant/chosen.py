"""Codes and scales that a method has chosen for a few rows of a matrix, and their bytes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import format_of
from farthing.quant.grid import Grid
from farthing.quant.pack_ggml import store_codes
from farthing.quant.pack_k import pack_k
from farthing.quant.pack_own import encode_scale8, nearest_zeros, pack_codes
from farthing.quant.scales import ByteScales, NestedScales, Scales, Units, UnitScales

__all__ = ["Chosen", "empty_choice"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Chosen:
    """Columns first, as in `rounding`: the arrays are filled block by block, in any order."""

    grid: Grid
    levels: F32  # [cols, n]
    scale: F32  # [cols / block, n]
    offset: F32
    unit: F32  # [cols / super_block, n], of scales; 1 where the format has no shared units
    unit_of_minima: F32

    def scales(self, block: int) -> Scales:
        """What a block's scales may be, once the units of its super-block are set."""
        if not isinstance(self.grid.scales, NestedScales):
            return self.grid.scales
        at = block // self.grid.blocks
        return UnitScales(self.grid.scales, self.unit[at], self.unit_of_minima[at])

    def set_units(self, super_block: int, units: Units | None) -> None:
        if units is not None:
            self.unit[super_block], self.unit_of_minima[super_block] = units

    def columns(self, block: int) -> slice:
        return slice(block * self.grid.block, (block + 1) * self.grid.block)

    def values(self, block: int) -> F32:
        """The block's weights [block, n]."""
        values: F32 = self.levels[self.columns(block)] * self.scale[block] + self.offset[block]
        return values

    def blocks(self) -> npt.NDArray[np.void]:
        """The rows as the format's blocks, one row after the other."""
        format, n = self.grid.format, self.levels.shape[1]
        codes = self.grid.codes(self.levels.T).reshape(-1, format_of(format).block_size)
        parts = (self.scale, self.offset, self.unit, self.unit_of_minima)
        scale, offset, unit, unit_of_minima = (np.ascontiguousarray(part.T).reshape(-1) for part in parts)
        if isinstance(self.grid.scales, ByteScales):
            has_zero = self.grid.scales.has_offset
            zeros = nearest_zeros(format, -offset / scale) if has_zero else None
            return pack_codes(format, codes, encode_scale8(scale), zeros)
        if isinstance(self.grid.scales, NestedScales):
            nested, per_super = self.grid.scales, (len(unit), self.grid.blocks)
            scales = nested.integers(scale.reshape(per_super), unit[:, None]).astype(np.int16)
            if not nested.has_offset:
                return pack_k(format, codes, unit, scales)
            minima = nested.integers(-offset.reshape(per_super), unit_of_minima[:, None]).astype(np.int16)
            return pack_k(format, codes, unit, scales, unit_of_minima, minima)
        if format == "tq2_0":
            return pack_k(format, codes, scale)
        blocks = np.zeros(len(scale), format_of(format).block)
        blocks["d"] = scale
        if self.grid.scales.has_offset:
            blocks["m"] = offset
        if format == "q8_0":
            blocks["qs"] = self.levels.T.reshape(n * len(self.scale), -1)
        else:
            store_codes(codes, blocks)
        return blocks


def empty_choice(grid: Grid, cols: int, num_rows: int) -> Chosen:
    """Room for the choice in `num_rows` rows of `cols` weights."""
    per_block, per_super = (cols // grid.block, num_rows), (cols // grid.super_block, num_rows)
    return Chosen(
        grid,
        np.zeros((cols, num_rows), np.float32),
        np.zeros(per_block, np.float32),
        np.zeros(per_block, np.float32),
        np.ones(per_super, np.float32),
        np.ones(per_super, np.float32),
    )

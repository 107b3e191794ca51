"""What a weight format can say, for those who choose: its levels, which weights share a scale, how it is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import C3_VALUES, IQ4_NL_VALUES
from farthing.quant.scales import ByteScales, HalfScales, NestedScales, Scales

__all__ = ["Grid", "grid_of", "grids"]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_TABLE_HALVES = 260  # a table's midpoints are whole halves; beyond +-130 every value meets the last entry


@dataclass(frozen=True)
class Grid:
    """A weight is `scale * level + offset`. `block` weights share the pair, `blocks` blocks units of their scales."""

    format: str
    block: int
    blocks: int
    levels: F32  # [n] ascending, whole numbers
    scales: Scales | NestedScales
    _table: F32 | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        table = None
        if (np.diff(self.levels) != 1).any():
            halves = np.arange(-_TABLE_HALVES, _TABLE_HALVES + 1, dtype=np.float32) / 2 + np.float32(0.25)
            table = self.levels[np.searchsorted((self.levels[1:] + self.levels[:-1]) / 2, halves)]
        object.__setattr__(self, "_table", table)

    @property
    def super_block(self) -> int:
        return self.block * self.blocks

    def nearest(self, values: F32) -> F32:
        """The levels nearest to values [...] that are in units of the scale."""
        if self._table is None:
            rounded = np.rint(values)
            return np.clip(rounded, self.levels[0], self.levels[-1], out=rounded)
        halves = np.clip(values * np.float32(2), -_TABLE_HALVES, _TABLE_HALVES)
        nearest: F32 = self._table[np.floor(halves, out=halves).astype(np.int16) + _TABLE_HALVES]
        return nearest

    def codes(self, levels: F32) -> U8:
        """The place of each level in the table of levels, as files store it."""
        return np.searchsorted(self.levels, levels).astype(np.uint8)


def _whole(first: int, last: int) -> F32:
    return np.arange(first, last + 1, dtype=np.float32)


_GRIDS = (
    Grid("q8_0", 32, 1, _whole(-127, 127), HalfScales(False)),
    Grid("q5_0", 32, 1, _whole(-16, 15), HalfScales(False, is_signed=True)),
    Grid("q4_0", 32, 1, _whole(-8, 7), HalfScales(False, is_signed=True)),
    Grid("q5_1", 32, 1, _whole(0, 31), HalfScales(True)),
    Grid("q4_1", 32, 1, _whole(0, 15), HalfScales(True)),
    Grid("iq4_nl", 32, 1, IQ4_NL_VALUES, HalfScales(False, is_signed=True)),
    Grid("q6_k", 16, 16, _whole(-32, 31), NestedScales(127, has_offset=False)),
    Grid("q5_k", 32, 8, _whole(0, 31), NestedScales(63, has_offset=True)),
    Grid("q4_k", 32, 8, _whole(0, 15), NestedScales(63, has_offset=True)),
    Grid("q3_k", 16, 16, _whole(-4, 3), NestedScales(31, has_offset=False)),
    Grid("q2_k", 16, 16, _whole(0, 3), NestedScales(15, has_offset=True)),
    Grid("tq2_0", 256, 1, _whole(-1, 1), HalfScales(False)),
    *(Grid(f"q{bits}", 32, 1, _whole(0, (1 << bits) - 1), ByteScales(bits)) for bits in (6, 5, 4, 3, 2)),
    Grid("c4", 32, 1, IQ4_NL_VALUES, ByteScales()),
    Grid("c3", 32, 1, C3_VALUES, ByteScales()),
    Grid("t2", 64, 1, _whole(-1, 1), ByteScales()),
)
_BY_FORMAT: Mapping[str, Grid] = MappingProxyType({grid.format: grid for grid in _GRIDS})


def grids() -> Mapping[str, Grid]:
    """All formats whose codes and scales can be chosen, by name."""
    return _BY_FORMAT


def grid_of(format: str) -> Grid:
    """The grid of a format; raises InvalidRequest where it has no codes and scales to choose."""
    if format not in _BY_FORMAT:
        raise InvalidRequest(
            f"weight format {format!r} has no codes that a method could choose; allowed: {', '.join(_BY_FORMAT)}"
        )
    return _BY_FORMAT[format]

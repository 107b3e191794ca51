"""The scales that a format can store, and the offsets: what a wanted pair becomes, and what lies beside a stored one.

A weight is `scale * level + offset`, the level being one of the format's few numbers. Scales and offsets stand in
arrays of one shape [...], a place for each block. Offsets are never above 0 (a format's zero point or minimum).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import scale8
from farthing.quant.pack_own import encode_scale8

__all__ = ["ByteScales", "HalfScales", "NestedScales", "Scales", "UnitScales", "Units"]

F32 = npt.NDArray[np.float32]
Pair = tuple[F32, F32]  # scale, offset
Units = tuple[F32, F32]  # of a super-block: the unit of its scales and that of its minima

_LARGEST_HALF = np.float32(65504)
_SHIFTS = (-0.35, -0.12, 0.12, 0.35)  # of an offset, in steps between levels


class Scales(Protocol):
    """One way to store the scales of blocks that have nothing in common."""

    @property
    def has_offset(self) -> bool: ...

    @property
    def is_signed(self) -> bool:
        """Whether a scale may be below 0, which pays where the levels reach further down than up."""

    def nearest(self, scale: F32, offset: F32) -> Pair:
        """The stored pair for a wanted one."""

    def beside(self, scale: F32, offset: F32) -> Iterator[Pair]:
        """Pairs near a stored one, worth a try."""


def _half(x: F32) -> F32:
    return np.clip(x, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class HalfScales:
    """A float16 scale, and perhaps a float16 minimum."""

    has_offset: bool
    is_signed: bool = False

    def nearest(self, scale: F32, offset: F32) -> Pair:
        return _half(scale), _half(offset) if self.has_offset else np.zeros_like(scale)

    def beside(self, scale: F32, offset: F32) -> Iterator[Pair]:
        if not self.has_offset:
            for factor in (0.91, 0.95, 0.98, 1.02, 1.05, 1.09):
                yield _half(scale * np.float32(factor)), offset
            return
        for factor in (0.95, 0.98, 1.02, 1.05):
            yield _half(scale * np.float32(factor)), offset
        for shift in _SHIFTS:
            yield scale, _half(offset + scale * np.float32(shift))


@dataclass(frozen=True)
class ByteScales:
    """Our own one-byte scale (`formats.scale8`), and for codes of `bits` a zero point in a byte."""

    bits: int | None = None  # None: no zero point
    is_signed = False

    @property
    def has_offset(self) -> bool:
        return self.bits is not None

    def nearest(self, scale: F32, offset: F32) -> Pair:
        stored = scale8(encode_scale8(scale))
        if self.bits is None:
            return stored, np.zeros_like(stored)
        return stored, self._offset(stored, -offset / stored)

    def _offset(self, scale: F32, zero: F32) -> F32:
        assert self.bits is not None
        step = np.float32(2.0 ** (self.bits - 8))
        stored: F32 = np.clip(np.rint(zero / step), 0, 255) * step * -scale
        return stored

    def beside(self, scale: F32, offset: F32) -> Iterator[Pair]:
        code = encode_scale8(scale).astype(np.int16)
        if self.bits is None:
            for move in (-2, -1, 1, 2):
                yield scale8(np.clip(code + move, 0, 255).astype(np.uint8)), offset
            return
        middle = np.float32(((1 << self.bits) - 1) / 2)
        for move in (-1, 0, 1):
            moved = scale8(np.clip(code + move, 0, 255).astype(np.uint8))
            zero = middle + (-offset / scale - middle) * scale / moved  # the middle of the range stays where it was
            for shift in _SHIFTS if move == 0 else (*_SHIFTS, 0.0):
                yield moved, self._offset(moved, zero + np.float32(shift))


@dataclass(frozen=True)
class NestedScales:
    """Integer scales of a block, in units that the blocks of a super-block of 256 share; minima the same."""

    last: int  # the largest integer
    has_offset: bool

    @property
    def is_signed(self) -> bool:
        return not self.has_offset

    def units(self, scales: F32, offsets: F32) -> Units:
        """The units [n] under which the wanted scales and offsets [blocks, n] of a super-block are met best."""
        return self._unit(scales), self._unit(-offsets) if self.has_offset else np.zeros_like(scales[0])

    def _unit(self, wanted: F32) -> F32:
        """Of some sizes around the one at which the largest is the last integer, the one of least error."""
        largest = np.take_along_axis(wanted, np.abs(wanted).argmax(axis=0)[None], axis=0)[0]  # [n]
        ends = (-self.last - 1, self.last + 1) if self.is_signed else (self.last,)
        factors = np.linspace(0.85, 1.3, 16, dtype=np.float32)
        tried = np.concatenate([largest * (factors / np.float32(end))[:, None] for end in ends])  # [trials, n]
        integers = self.integers(wanted[:, None], tried)  # [blocks, trials, n]
        norm = (integers * integers).sum(axis=0)
        reached = (integers * wanted[:, None]).sum(axis=0)
        fitted = _half(np.divide(reached, norm, out=np.zeros_like(tried), where=norm > 0))
        error = ((wanted[:, None] - fitted * self.integers(wanted[:, None], fitted)) ** 2).sum(axis=0)  # [trials, n]
        best: F32 = np.take_along_axis(fitted, error.argmin(axis=0)[None], axis=0)[0]
        return best

    def integers(self, wanted: F32, unit: F32) -> F32:
        """The whole number of units nearest to `wanted`, 0 where the unit is 0."""
        shape = np.broadcast_shapes(wanted.shape, unit.shape)
        ratio = np.divide(wanted, unit, out=np.zeros(shape, np.float32), where=unit != 0)
        return np.clip(np.rint(ratio, out=ratio), -self.last - 1 if self.is_signed else 0, self.last, out=ratio)


@dataclass(frozen=True)
class UnitScales:
    """Nested scales whose units are settled."""

    nested: NestedScales
    unit: F32
    unit_of_minima: F32

    @property
    def has_offset(self) -> bool:
        return self.nested.has_offset

    @property
    def is_signed(self) -> bool:
        return self.nested.is_signed

    def nearest(self, scale: F32, offset: F32) -> Pair:
        stored = self.unit * self.nested.integers(scale, self.unit)
        if not self.has_offset:
            return stored, np.zeros_like(stored)
        return stored, -self.unit_of_minima * self.nested.integers(-offset, self.unit_of_minima)

    def beside(self, scale: F32, offset: F32) -> Iterator[Pair]:
        if not self.has_offset:
            for move in (-3, -2, -1, 1, 2, 3):
                yield self.nearest(scale + np.float32(move) * self.unit, offset)
            return
        for move in (-1, 0, 1):
            for shift in (-2, -1, 0, 1, 2):
                if move or shift:
                    moved = scale + np.float32(move) * self.unit
                    yield self.nearest(moved, offset + np.float32(shift) * self.unit_of_minima)

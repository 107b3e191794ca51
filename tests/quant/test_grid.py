"""Levels and scales mean in bytes what they meant when they were chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, format_of
from farthing.quant.chosen import empty_choice
from farthing.quant.grid import grid_of, grids
from farthing.quant.scales import NestedScales

NUM_ROWS, NUM_SUPERS = 3, 2


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(grids())), st.integers(0, 2**32 - 1))
def test_a_choice_is_read_back_as_it_was_made(format: str, seed: int) -> None:
    rng, grid = np.random.default_rng(seed), grid_of(format)
    cols = NUM_SUPERS * max(grid.super_block, format_of(format).block_size)
    chosen = empty_choice(grid, cols, NUM_ROWS)
    chosen.levels[:] = rng.choice(grid.levels, chosen.levels.shape)
    for block in range(cols // grid.block):
        scale = np.exp(rng.normal(-3, 2, NUM_ROWS)).astype(np.float32)
        offset = -scale * rng.uniform(0, 1, NUM_ROWS).astype(np.float32) * np.abs(grid.levels).max()
        if isinstance(grid.scales, NestedScales) and block % grid.blocks == 0:
            chosen.set_units(block // grid.blocks, grid.scales.units(scale[None], offset[None]))
        chosen.scale[block], chosen.offset[block] = chosen.scales(block).nearest(scale, offset)
    meant = np.concatenate([chosen.values(block) for block in range(cols // grid.block)]).T
    read = dequantize(chosen.blocks().view(np.uint8), format, NUM_ROWS, cols)
    # scale * level + offset rounds once more than scale * (code - zero): an ulp of the larger part.
    np.testing.assert_allclose(
        read, meant, rtol=0, atol=3e-7 * np.abs(meant).max() + 3e-7 * np.abs(chosen.offset).max()
    )


@pytest.mark.parametrize("format", grids())
def test_the_nearest_level_is_the_nearest(format: str) -> None:
    grid = grid_of(format)
    values = np.random.default_rng(0).uniform(-1.5, 1.5, 2000).astype(np.float32) * np.abs(grid.levels).max()
    distance = np.abs(values[:, None] - grid.levels)
    found = np.abs(values - grid.nearest(values))
    np.testing.assert_allclose(found, distance.min(axis=1), atol=1e-4)


@pytest.mark.parametrize("format", grids())
def test_a_stored_pair_is_nearest_to_itself_and_all_beside_it_can_be_stored(format: str) -> None:
    grid = grid_of(format)
    chosen = empty_choice(grid, grid.super_block, 50)
    rng = np.random.default_rng(1)
    scale = np.exp(rng.normal(-3, 1, 50)).astype(np.float32)
    offset = -scale * np.float32(1.3)
    if isinstance(grid.scales, NestedScales):
        chosen.set_units(0, grid.scales.units(np.stack([scale, scale * 2]), np.stack([offset, offset * 2])))
    scales = chosen.scales(0)
    for pair in (scales.nearest(scale, offset), *scales.beside(*scales.nearest(scale, offset))):
        again = scales.nearest(*pair)
        np.testing.assert_allclose(again[0], pair[0], rtol=1e-6)
        np.testing.assert_allclose(again[1], pair[1], rtol=1e-6, atol=1e-9)


def test_a_format_without_codes_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"f16.*no codes.*q4_0"):
        grid_of("f16")

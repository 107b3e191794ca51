"""Weights to blocks by a method: how codes and scales are chosen, in any format that has them.

| method | chooses | needs calibration text |
|---|---|---|
| rtn | the scale by the block's largest weights, codes to nearest | no |
| search | the scale (and zero point) of least squared error | no |
| hqq | the same under a measure that forgives outliers | no |
| importance | search, weighted by what each column is multiplied with | yes |
| gptq | codes and scales that make up for each other's errors in the layer's output | yes |
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, row_bytes
from farthing.kernels.plan import QTensor
from farthing.quant.chosen import Chosen
from farthing.quant.convert import quantize
from farthing.quant.gptq import gptq, target
from farthing.quant.grid import Grid, grid_of
from farthing.quant.hqq import hqq
from farthing.quant.search import search

__all__ = ["METHODS", "METHODS_WITH_STATISTICS", "Statistics", "quantize_matrix", "relative_error"]

F32 = npt.NDArray[np.float32]

METHODS = ("rtn", "search", "hqq", "importance", "gptq")
METHODS_WITH_STATISTICS = ("importance", "gptq")

_LEAST_IMPORTANCE = 0.01  # of the mean
_ROWS = 512  # rows worked on at a time: rows are independent, and candidates of so many stay in cache


@dataclass(frozen=True)
class Statistics:
    """What calibration text says of one matrix's input."""

    gram: F32  # [cols, cols] mean of x x^T over tokens, some of which may count more
    num_tokens: int


def quantize_matrix(values: F32, format: str, method: str, statistics: Statistics | None = None) -> QTensor:
    """The matrix [rows, cols] in `format`, by a method of METHODS. Formats without codes (f16, ...) only know rtn.

    Raises InvalidRequest for an unknown format or method, statistics that are missing or do not fit, columns that are
    not whole blocks, and weights that are not finite or too large for the format.
    """
    if method not in METHODS:
        raise InvalidRequest(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    plain = quantize(values, format)  # also refuses what cannot be stored at all
    if method == "rtn":
        return plain
    grid = grid_of(format)
    if method in METHODS_WITH_STATISTICS:
        _check(statistics, method, plain.cols)
    choose = _chooser(grid, method, statistics)
    rows, cols = plain.rows, plain.cols
    matrix = np.asarray(values, np.float32).reshape(rows, cols)
    data = np.empty_like(plain.data)
    step = row_bytes(format, cols)
    for first in range(0, rows, _ROWS):
        stop = min(first + _ROWS, rows)
        blocks = choose(np.ascontiguousarray(matrix[first:stop].T)).blocks()
        data[first * step : stop * step] = blocks.view(np.uint8)
    return QTensor(format, rows, cols, data)


def _check(statistics: Statistics | None, method: str, cols: int) -> None:
    if statistics is None:
        raise InvalidRequest(f"method {method} needs statistics of the layer's input: give a calibration text")
    if statistics.gram.shape != (cols, cols):
        given = "x".join(map(str, statistics.gram.shape))
        raise InvalidRequest(f"the statistics are of {given} columns; the matrix has {cols}")
    if not np.isfinite(statistics.gram).all():
        raise InvalidRequest("the statistics hold numbers that are not finite: the model overflows on that text")


def _chooser(grid: Grid, method: str, statistics: Statistics | None) -> Callable[[F32], Chosen]:
    """A function from weights [cols, n] to the choice for them."""
    if method == "hqq":
        return lambda weights: hqq(grid, weights)
    if method == "search" or statistics is None:
        return lambda weights: search(grid, weights, np.ones(len(weights), np.float32))
    if method == "gptq":
        ready = target(grid, statistics.gram)
        return lambda weights: gptq(grid, weights, ready)
    activity = np.diag(statistics.gram).astype(np.float64)
    mean = activity.mean()
    # A column that the text never used keeps a little weight: other texts may use it.
    importance = (activity / (mean if mean > 0 else 1.0) + _LEAST_IMPORTANCE).astype(np.float32)
    return lambda weights: search(grid, weights, importance)


def relative_error(values: F32, quantized: QTensor, statistics: Statistics | None) -> float:
    """What part of the layer's output is error, tr(E G E^T) / tr(W G W^T); without statistics, of the weights
    themselves (G = 1). 0 where the output is 0."""
    matrix = np.asarray(values, np.float32).reshape(quantized.rows, quantized.cols)
    gram = None if statistics is None else statistics.gram.astype(np.float64)
    step = row_bytes(quantized.format, quantized.cols)
    lost = total = 0.0
    for first in range(0, quantized.rows, _ROWS):
        stop = min(first + _ROWS, quantized.rows)
        theirs = dequantize(quantized.data[first * step : stop * step], quantized.format, stop - first, quantized.cols)
        ours = matrix[first:stop].astype(np.float64)
        for part, is_error in ((ours - theirs, True), (ours, False)):
            energy = float(np.vdot(part, part if gram is None else part @ gram))
            lost, total = (lost + energy, total) if is_error else (lost, total + energy)
    return max(lost, 0.0) / total if total > 0 else 0.0

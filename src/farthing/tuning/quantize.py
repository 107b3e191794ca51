"""Quantizes a model's tensors one after the other, with or without statistics of their inputs."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from farthing.errors import InvalidRequest
from farthing.kernels.cores import num_cores
from farthing.kernels.formats import dequantize, row_bytes
from farthing.kernels.mapped import forget_mapped
from farthing.kernels.plan import Plan, QTensor
from farthing.quant import requantize
from farthing.quant.methods import METHODS_WITH_STATISTICS, Statistics, quantize_matrix
from farthing.tuning.calibrate import observe_head, observe_layer
from farthing.tuning.forward import Forward
from farthing.tuning.job import Windows
from farthing.tuning.threads import in_order

__all__ = ["Overlay", "Put", "fallback", "quantize_all", "quantize_calibrated", "quantize_tensor"]

Put = Callable[[str, QTensor], None]  # takes each tensor once, when it is made

_MOST_WEIGHTS = 1 << 23  # of a matrix's rows that are quantized together
_ROWS = 512  # as in quant.methods
_PLAIN = ("f32", "f16", "bf16", "q8_0")  # so fine that no method beats rounding


def fallback(method: str) -> str:
    """What a method does where it has no statistics: an embedding that is no head, an expert that no token chose."""
    return "search" if method in METHODS_WITH_STATISTICS else method


def quantize_tensor(
    name: str, tensor: QTensor, format: str, method: str, statistics: Statistics | None = None
) -> QTensor:
    """`tensor` in another format; the same object where it has it already. Raises InvalidRequest, which names it."""
    try:
        if tensor.format == format or format in _PLAIN:
            return requantize(tensor, format)
        if statistics is None:
            method = fallback(method)
        old_bytes = row_bytes(tensor.format, tensor.cols)
        data = np.empty(tensor.rows * row_bytes(format, tensor.cols), np.uint8).reshape(tensor.rows, -1)

        def quantized(first: int) -> tuple[int, QTensor]:
            rows = min(step, tensor.rows - first)
            raw = tensor.data[first * old_bytes : (first + rows) * old_bytes]
            values = dequantize(raw, tensor.format, rows, tensor.cols)
            return first, quantize_matrix(values, format, method, statistics)

        step = _rows_together(tensor)
        for first, made in in_order(quantized, range(0, tensor.rows, step)):
            data[first : first + made.rows] = made.data.reshape(made.rows, -1)
    except InvalidRequest as error:
        raise InvalidRequest(f"tensor {name!r}: {error}") from None
    forget_mapped(tensor.data)
    return QTensor(format, tensor.rows, tensor.cols, data.reshape(-1))


def _rows_together(tensor: QTensor) -> int:
    """Enough to share what a method prepares from the statistics, few enough for all cores and for memory. A multiple
    of what `quantize_matrix` works on at once: so the result does not depend on the number of cores."""
    shared = -(-tensor.rows // num_cores())
    return max(1, min(shared, _MOST_WEIGHTS // tensor.cols) // _ROWS) * _ROWS


def quantize_all(
    tensors: Mapping[str, QTensor], formats: Mapping[str, str], method: str, put: Put, tick: Callable[[int], None]
) -> None:
    """All tensors, each in its format, in order; tick(n) after a tensor of n weights."""
    for name, tensor in tensors.items():
        put(name, quantize_tensor(name, tensor, formats[name], method))
        tick(tensor.rows * tensor.cols)


class Overlay(Mapping[str, QTensor]):
    """`more`, and beneath it `tensors`."""

    def __init__(self, more: Mapping[str, QTensor], tensors: Mapping[str, QTensor]) -> None:
        self._more, self._tensors = more, tensors

    def __getitem__(self, name: str) -> QTensor:
        return self._more[name] if name in self._more else self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        yield from {**dict.fromkeys(self._more), **dict.fromkeys(self._tensors)}

    def __len__(self) -> int:
        return len({*self._more, *self._tensors})


def quantize_calibrated(
    plan: Plan,
    tensors: Mapping[str, QTensor],
    formats: Mapping[str, str],
    method: str,
    windows: Windows,
    put: Put,
    tick: Callable[[int], None],
) -> None:
    """`quantize_all` with statistics of `windows`.

    What a layer meets comes out of the layers before it as they are quantized already, so that a later one can make
    good an earlier one's error; so each layer runs twice. (Of SmolLM2 in q3 by GPTQ it takes 1.4 % off the KL
    divergence from the source.)
    """
    forward = Forward(plan, windows.calibration)
    forward.embed(plan.tensors)
    done: set[str] = set()

    def make(name: str, statistics: Statistics | None) -> QTensor:
        done.add(name)
        made = quantize_tensor(name, tensors[name], formats[name], method, statistics)
        put(name, made)
        tick(made.rows * made.cols)
        return made

    for index in range(forward.num_layers):
        made: dict[str, QTensor] = {}

        def consume(names: tuple[str, ...], statistics: Statistics, made: dict[str, QTensor] = made) -> None:
            made.update({name: make(name, statistics) for name in names})

        before = forward.stream.copy()
        observe_layer(forward, index, plan.tensors, consume)
        forward.stream = before
        forward.layer(index, Overlay(made, plan.tensors))

    def consume_head(names: tuple[str, ...], statistics: Statistics) -> None:
        for name in names:
            make(name, statistics)

    observe_head(forward, plan.tensors, consume_head)
    for name in [name for name in tensors if name not in done]:  # norms, biases, an embedding apart from the head
        make(name, None)

"""What each format is expected to cost: a measured KL divergence where there is a text, else the weights' error."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from farthing.kernels.formats import dequantize, format_of
from farthing.kernels.plan import Plan, QTensor
from farthing.quant.methods import Statistics, quantize_matrix, relative_error
from farthing.tuning.calibrate import observe_head, observe_layer
from farthing.tuning.forward import Forward
from farthing.tuning.sensitivity import PROBE, Unit, measure_sensitivity
from farthing.tuning.threads import in_order

__all__ = ["Losses", "Tick", "expected_losses", "fitting_formats"]

F32 = npt.NDArray[np.float32]

Losses = Mapping[str, Mapping[str, float]]  # of each unit in each format that it may take
Tick = Callable[[str, int, int], None]  # stage, done, of so many

SAMPLED_ROWS = 128  # of a matrix, from which a format's error is estimated
PROBED_WINDOWS, PROBED_TOKENS = 4, 192  # sensitivity is measured on the beginnings of so many windows


def fitting_formats(unit: Unit, candidates: Sequence[str]) -> list[str]:
    """Those of which the unit's rows are whole blocks."""
    return [format for format in candidates if unit.cols % format_of(format).block_size == 0]


def expected_losses(
    plan: Plan,
    units: Sequence[Unit],
    candidates: Sequence[str],
    windows: Sequence[Sequence[int]] = (),
    tick: Tick = lambda _stage, _done, _total: None,
) -> Losses:
    """The loss of each unit in each fitting format, in one unit of measure, so that they may be added up.

    With windows it is the KL divergence with that unit alone in PROBE, measured, times the ratio of the two formats'
    errors in its output; without windows the relative error of its weights.
    """
    errors = _Errors(plan.tensors, units, candidates)
    if not windows:
        for i, name in enumerate(errors.names):
            errors.add((name,), None)
            tick("weighing formats", i + 1, len(errors.names))
        return errors.of_formats
    forward = Forward(plan, windows)
    forward.embed(plan.tensors)
    for index in range(forward.num_layers):
        observe_layer(forward, index, plan.tensors, errors.add)
        tick("calibrating", index + 1, forward.num_layers)
    observe_head(forward, plan.tensors, errors.add)
    errors.add(errors.unseen(), None)  # an embedding apart from the head, experts that no token chose
    total, done = forward.num_layers + len(units), iter(range(1, 1 << 62))
    del forward
    places = np.unique(np.linspace(0, len(windows) - 1, PROBED_WINDOWS).astype(np.int64))
    texts = [windows[i][:PROBED_TOKENS] for i in places]
    kl = measure_sensitivity(plan, units, texts, lambda: tick("measuring sensitivity", next(done), total))
    return {
        unit.name: {
            format: kl[unit.name] * error / max(errors.of_probe[unit.name], 1e-30)
            for format, error in errors.of_formats[unit.name].items()
        }
        for unit in units
    }


class _Errors:
    """Relative errors of each unit, the mean over its matrices, from some rows of each."""

    def __init__(self, tensors: Mapping[str, QTensor], units: Sequence[Unit], candidates: Sequence[str]) -> None:
        self._tensors = tensors
        self._units = {name: unit for unit in units for name in unit.tensors}
        self.of_formats = {unit.name: dict.fromkeys(fitting_formats(unit, candidates), 0.0) for unit in units}
        self.of_probe = dict.fromkeys(self.of_formats, 0.0)
        self._seen: set[str] = set()

    @property
    def names(self) -> list[str]:
        return list(self._units)

    def unseen(self) -> tuple[str, ...]:
        return tuple(name for name in self._units if name not in self._seen)

    def add(self, names: tuple[str, ...], statistics: Statistics | None) -> None:
        """Matrices with one input."""
        ours = [name for name in names if name in self._units]

        def measure(name: str) -> tuple[str, dict[str, float], float]:
            return name, *self._measure(name, statistics)

        for name, of_formats, of_probe in in_order(measure, ours):
            unit = self._units[name]
            self._seen.add(name)
            self.of_probe[unit.name] += of_probe / len(unit.tensors)
            for format, error in of_formats.items():
                self.of_formats[unit.name][format] += error / len(unit.tensors)

    def _measure(self, name: str, statistics: Statistics | None) -> tuple[dict[str, float], float]:
        tensor, unit = self._tensors[name], self._units[name]
        rows = _some_rows(tensor)
        method = "search" if statistics is None else "importance"

        def error(format: str, method: str) -> float:
            if format == tensor.format:
                return 0.0  # it stays as it is
            given = None if method == "rtn" else statistics
            return relative_error(rows, quantize_matrix(rows, format, method, given), statistics)

        return {format: error(format, method) for format in self.of_formats[unit.name]}, error(PROBE, "rtn")


def _some_rows(tensor: QTensor) -> F32:
    places = np.unique(np.linspace(0, tensor.rows - 1, SAMPLED_ROWS).astype(np.int64))
    raw = tensor.data.reshape(tensor.rows, -1)[places]
    return dequantize(raw.reshape(-1), tensor.format, len(places), tensor.cols)

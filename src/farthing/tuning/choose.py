"""Which format each tensor takes: one for all, or a mixture under a budget, cheapest in expected loss."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from farthing.errors import InvalidRequest
from farthing.kernels.formats import dequantize, format_of, row_bytes
from farthing.kernels.plan import Plan, QTensor
from farthing.quant import target_format
from farthing.quant.allocate import Option, allocate
from farthing.quant.methods import Statistics, quantize_matrix, relative_error
from farthing.tuning.calibrate import observe_head, observe_layer
from farthing.tuning.forward import Forward
from farthing.tuning.sensitivity import Unit, measure_sensitivity, units_of

__all__ = ["mixed_formats", "one_format"]

F32 = npt.NDArray[np.float32]

# What a mixture is made of, fewest bits first.
GGUF_MIXTURE = ("tq2_0", "q2_k", "q3_k", "q4_k", "iq4_nl", "q4_0", "q4_1", "q5_k", "q5_0", "q5_1", "q6_k", "q8_0")
OWN_MIXTURE = ("t2", "q2", "c3", "q3", "c4", "q4", "q5", "q6", "q8_0")
PROBES = ("q3", "q3_k", "q4_0")  # the first that fits a tensor is the format its sensitivity is measured in
SAMPLED_ROWS = 128  # of a matrix, from which a format's error is estimated
PROBED_WINDOWS = 2


def one_format(tensors: Mapping[str, QTensor], format: str) -> dict[str, str]:
    """Every matrix in `format`, but routers, and those whose columns are not whole blocks of it."""
    return {name: t.format if name.endswith(".router") else target_format(t, format) for name, t in tensors.items()}


def mixed_formats(
    plan: Plan,
    tensors: Mapping[str, QTensor],
    budget: float,
    extra_bytes: int,
    candidates: Sequence[str],
    windows: Sequence[Sequence[int]] = (),
    tick: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> dict[str, str]:
    """Formats of `candidates` of which all tensors and extra_bytes together take at most `budget` bits per weight.

    With windows a format's loss is a measured KL divergence (`measure_sensitivity`), carried over from the format it
    was measured in by the two formats' errors; without them it is the error of the weights. Raises InvalidRequest for a
    budget that cannot be kept.
    """
    units = units_of(tensors)
    fitting = {unit.name: [f for f in candidates if unit.cols % format_of(f).block_size == 0] for unit in units}
    units = [unit for unit in units if fitting[unit.name]]
    mixed = {name for unit in units for name in unit.tensors}
    fixed = {n: "f32" if t.rows == 1 else t.format for n, t in tensors.items() if n not in mixed}
    fixed_bytes = extra_bytes + sum(tensors[n].rows * row_bytes(f, tensors[n].cols) for n, f in fixed.items())
    num_weights = sum(t.rows * t.cols for t in tensors.values())
    errors = _Errors(tensors, units, fitting)
    losses = _measured(plan, units, errors, windows, tick) if windows else errors.without_statistics(tick)
    options = {
        unit.name: [Option(f, _num_bytes(unit, f), losses[unit.name][f]) for f in fitting[unit.name]] for unit in units
    }
    _check_budget(options, fixed_bytes, budget, num_weights)
    chosen = allocate(options, budget * num_weights - 8 * fixed_bytes)
    return fixed | {name: chosen[unit.name].format for unit in units for name in unit.tensors}


def _num_bytes(unit: Unit, format: str) -> int:
    return unit.num_weights // unit.cols * row_bytes(format, unit.cols)


def _check_budget(options: Mapping[str, Sequence[Option]], fixed_bytes: int, budget: float, num_weights: int) -> None:
    least = fixed_bytes + sum(min(o.num_bytes for o in some) for some in options.values())
    if 8 * least > budget * num_weights:
        bits = 8 * least / num_weights
        raise InvalidRequest(f"--bits is {budget:g}; the smallest formats there take {bits:.3f} bits per weight in all")


class _Errors:
    """Relative errors of some of a matrix's rows in each format that it may take."""

    def __init__(
        self, tensors: Mapping[str, QTensor], units: Sequence[Unit], fitting: Mapping[str, Sequence[str]]
    ) -> None:
        self._tensors, self._fitting, self._units = tensors, fitting, {unit.name: unit for unit in units}
        self._unit_of = {name: unit.name for unit in units for name in unit.tensors}
        self._sums: dict[str, dict[str, float]] = {unit.name: {} for unit in units}
        self._seen: set[str] = set()
        self.probes = {unit.name: _probe(unit, fitting[unit.name]) for unit in units}
        self.of_probe: dict[str, float] = dict.fromkeys(self._units, 0.0)

    def add(self, name: str, statistics: Statistics | None) -> None:
        """A matrix's errors are its unit's in proportion to its weights."""
        unit = self._units.get(self._unit_of.get(name, ""))
        if unit is None:
            return
        self._seen.add(name)
        tensor = self._tensors[name]
        rows = _sampled_rows(tensor)
        share = tensor.rows * tensor.cols / unit.num_weights
        method = "search" if statistics is None else "importance"
        sums = self._sums[unit.name]
        for format in self._fitting[unit.name]:
            made = quantize_matrix(rows, format, method, statistics)
            sums[format] = sums.get(format, 0.0) + share * relative_error(rows, made, statistics)
        probe = quantize_matrix(rows, self.probes[unit.name], "rtn")
        self.of_probe[unit.name] += share * relative_error(rows, probe, statistics)

    def all(self) -> dict[str, dict[str, float]]:
        """Of all units; matrices that were not added yet have no statistics."""
        for name in self._unit_of:
            if name not in self._seen:
                self.add(name, None)
        return self._sums

    def without_statistics(self, tick: Callable[[str, int, int], None]) -> dict[str, dict[str, float]]:
        for i, name in enumerate(self._unit_of):
            self.add(name, None)
            tick("weighing formats", i + 1, len(self._unit_of))
        return self._sums


def _probe(unit: Unit, fitting: Sequence[str]) -> str:
    """Few bits, so that what is measured stands out; yet not so few that it is no guide to more."""
    near = [f for f in PROBES if unit.cols % format_of(f).block_size == 0]
    return near[0] if near else fitting[0]


def _sampled_rows(tensor: QTensor) -> F32:
    places = np.unique(np.linspace(0, tensor.rows - 1, SAMPLED_ROWS).astype(np.int64))
    raw = tensor.data.reshape(tensor.rows, -1)[places]
    return dequantize(raw.reshape(-1), tensor.format, len(places), tensor.cols)


def _measured(
    plan: Plan,
    units: Sequence[Unit],
    errors: _Errors,
    windows: Sequence[Sequence[int]],
    tick: Callable[[str, int, int], None],
) -> dict[str, dict[str, float]]:
    forward = Forward(plan, windows)
    forward.embed(plan.tensors)

    def consume(names: tuple[str, ...], statistics: Statistics) -> None:
        for name in names:
            errors.add(name, statistics)

    for index in range(forward.num_layers):
        observe_layer(forward, index, plan.tensors, consume)
        tick("calibrating", index + 1, forward.num_layers)
    observe_head(forward, plan.tensors, consume)
    found = errors.all()
    total, done = forward.num_layers + len(units), iter(range(1, 1 << 62))
    del forward
    some = [windows[i] for i in np.linspace(0, len(windows) - 1, min(PROBED_WINDOWS, len(windows))).astype(int)]
    kl = measure_sensitivity(plan, units, errors.probes, some, lambda: tick("measuring sensitivity", next(done), total))
    return {
        unit.name: {f: kl[unit.name] * e / max(errors.of_probe[unit.name], 1e-30) for f, e in found[unit.name].items()}
        for unit in units
    }

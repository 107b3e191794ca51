"""The whole of `farthing quantize`: open, rotate, calibrate, choose, write, measure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from farthing.kernels.formats import dequantize, row_bytes
from farthing.kernels.plan import Plan, QTensor
from farthing.models.decoder import build_plan
from farthing.models.folder_gguf import as_gguf
from farthing.models.opening import Checkpoint, open_checkpoint
from farthing.models.output import check_output, extra_tensors, open_output, output_kind, output_tensors
from farthing.quant.rotate import rotate
from farthing.report.quality import Divergence
from farthing.tuning.choose import GGUF_MIXTURE, OWN_MIXTURE, Mixture, one_format
from farthing.tuning.divergence import compare
from farthing.tuning.job import QuantizeJob, Windows, check_gguf_format, read_calibration
from farthing.tuning.losses import Losses, Tick, expected_losses
from farthing.tuning.quantize import Put, quantize_all, quantize_calibrated

__all__ = ["Quantized", "quantize_model"]


@dataclass(frozen=True)
class Quantized:
    """What was written. Bits per weight are of all tensors, norms counted; num_kept counts matrices that kept their
    format because their columns are not whole blocks of the one asked for."""

    num_weights: int
    num_tensors: int
    num_kept: int
    tensor_bytes_before: int
    tensor_bytes: int
    method: str
    formats: Mapping[str, int]  # format -> weights in it
    num_calibration_tokens: int
    losses: Losses | None  # None where formats were not mixed
    divergence: Divergence | None  # from the source's weights, both multiplied in float32; None without a text

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.tensor_bytes / self.num_weights

    @property
    def bits_per_weight_before(self) -> float:
        return 8 * self.tensor_bytes_before / self.num_weights


def quantize_model(
    path: Path,
    output: Path,
    job: QuantizeJob,
    calibration: str | None = None,
    *,
    is_overwrite: bool = False,
    losses: Losses | None = None,
    tick: Tick = lambda _stage, _done, _total: None,
) -> Quantized:
    """Write the model at `path` to `output` as `job` says; calibration: a text, or the name of a file of text.

    losses: those that an earlier run on the same model and text found, for another budget.

    Raises ModelError for the source; InvalidRequest for the job, the text and the output.
    """
    source = open_checkpoint(path)
    kind = output_kind(source, output)
    check_output(output, kind, is_overwrite=is_overwrite)
    if kind != "folder":
        source = as_gguf(source)
    if kind == "gguf" and job.format is not None:
        check_gguf_format(job.format)
    method = job.method_with(calibration is not None)
    windows = None
    if calibration is not None:
        windows = read_calibration(calibration, source.tokenizer(), source.config.max_position_embeddings, job)
    rotated = _rotated(source, job) if job.is_rotated else source
    plan = build_plan(rotated.config, rotated.tensors)
    if job.format is not None:
        formats = one_format(rotated.tensors, job.format)
    else:
        mixture = Mixture.of(rotated.tensors, GGUF_MIXTURE if kind == "gguf" else OWN_MIXTURE, extra_tensors(source))
        mixture.check(job.budget)  # before the work
        if losses is None:
            texts = windows.calibration if windows is not None else ()
            losses = expected_losses(plan, mixture.units, mixture.candidates, texts, tick)
        formats = mixture.choose(losses, job.budget)
    shapes = {name: (formats[name], t.rows, t.cols) for name, t in rotated.tensors.items()}
    infos = output_tensors(source, shapes, kind)
    total = sum(t.rows * t.cols for t in rotated.tensors.values())
    count = _Count("quantizing (million weights)", total, tick, 10**6)
    with open_output(source, output, infos, _commonest(rotated.tensors, formats), is_overwrite=is_overwrite) as sink:
        _quantize(plan, rotated.tensors, formats, method, windows, sink.put, count.add)
    divergence = None
    if windows is not None:
        written = open_checkpoint(output)
        other = build_plan(written.config, written.tensors)
        measured = _Count("measuring the result", 2 * source.config.num_layers, tick)
        divergence = compare(build_plan(source.config, source.tensors), other, windows.measured, measured.add)
    return _result(rotated, formats, job, method, windows, losses, divergence)


class _Count:
    """Adds up what is done of a stage, and tells it in units of so many."""

    def __init__(self, stage: str, total: int, tick: Tick, unit: int = 1) -> None:
        self._stage, self._total, self._tick, self._unit, self._done = stage, total, tick, unit, 0

    def add(self, number: int) -> None:
        self._done += number
        self._tick(self._stage, self._done // self._unit, max(1, self._total // self._unit))


def _rotated(source: Checkpoint, job: QuantizeJob) -> Checkpoint:
    """The whole model in float32: this alone needs its memory."""
    values = {n: dequantize(t.data, t.format, t.rows, t.cols) for n, t in source.tensors.items()}
    config, turned = rotate(source.config, values, job.seed)
    tensors = {
        name: QTensor("f32", len(matrix), matrix.shape[1], np.ascontiguousarray(matrix).reshape(-1).view(np.uint8))
        for name, matrix in turned.items()
    }
    return replace(source, config=config, tensors=tensors)


def _weights_by_format(tensors: Mapping[str, QTensor], formats: Mapping[str, str]) -> dict[str, int]:
    weights: dict[str, int] = {}
    for name, tensor in tensors.items():
        weights[formats[name]] = weights.get(formats[name], 0) + tensor.rows * tensor.cols
    return dict(sorted(weights.items()))


def _commonest(tensors: Mapping[str, QTensor], formats: Mapping[str, str]) -> str:
    weights = _weights_by_format(tensors, formats)
    return max(weights, key=lambda format: weights[format])


def _quantize(
    plan: Plan,
    tensors: Mapping[str, QTensor],
    formats: Mapping[str, str],
    method: str,
    windows: Windows | None,
    put: Put,
    tick: Callable[[int], None],
) -> None:
    if windows is None:
        quantize_all(tensors, formats, method, put, tick)
    else:
        quantize_calibrated(plan, tensors, formats, method, windows, put, tick)


def _result(
    source: Checkpoint,
    formats: Mapping[str, str],
    job: QuantizeJob,
    method: str,
    windows: Windows | None,
    losses: Losses | None,
    divergence: Divergence | None,
) -> Quantized:
    tensors, extra = source.tensors, extra_tensors(source).values()
    kept = (n for n, t in tensors.items() if t.rows > 1 and not n.endswith(".router") and formats[n] != job.format)
    new_bytes = sum(t.rows * row_bytes(formats[n], t.cols) for n, t in tensors.items())
    return Quantized(
        num_weights=sum(t.rows * t.cols for t in (*tensors.values(), *extra)),
        num_tensors=len(tensors) + len(extra),
        num_kept=sum(1 for _ in kept) if job.format is not None else 0,
        tensor_bytes_before=sum(t.data.nbytes for t in (*tensors.values(), *extra)),
        tensor_bytes=new_bytes + sum(t.data.nbytes for t in extra),
        method=method,
        formats=_weights_by_format(tensors, formats),
        losses=losses,
        num_calibration_tokens=windows.num_tokens if windows is not None else 0,
        divergence=divergence,
    )

"""`farthing quantize SRC -o OUT --bits 3.5 --calibrate TEXT`: a model with its weights in fewer bits."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, emit, progress

if TYPE_CHECKING:
    from farthing.tuning.losses import Tick
    from farthing.tuning.run import Quantized

__all__ = ["EXAMPLE", "quantize"]

EXAMPLE = "farthing quantize smollm2-135m-instruct -o small.safetensors --bits 3.5 --calibrate book.txt"

_FORMATS = "f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl q2_k q3_k q4_k q5_k q6_k tq2_0; q6 q5 q4 q3 q2 c4 c3 t2"


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A GGUF file, a pulled model's name, or a Hugging Face folder.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="OUT.gguf or OUT.safetensors; of a folder also a folder."),
    ],
    format: Annotated[
        str | None, typer.Option("--format", "-f", help=f"One format for all matrices: {_FORMATS} (not in a GGUF).")
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option("--bits", metavar="N", help="Mix formats: at most so many bits per weight in all (default 4.5)."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="rtn, search or hqq; importance or gptq (the default) with --calibrate."),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", metavar="TEXT", help="A file of text like the model's use, or the text itself."),
    ] = None,
    is_rotated: Annotated[
        bool, typer.Option("--rotate", help="Turn the weights by a random rotation first; answers stay the same.")
    ] = False,
    tokens: Annotated[
        int | None, typer.Option("--tokens", metavar="N", help="Calibrate on at most N tokens (default 32768).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the rotation, and of the windows chosen.")] = 0,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace OUT where it is a file that exists.")] = False,
    json_mode: JsonOption = False,
) -> None:
    """Write a model with its weights in fewer bits.

    All matrices (embedding and head too) are quantized; norms and biases are float32, gates of experts stay. Formats of
    ggml's go into a .gguf, which llama.cpp loads too; all go into a .safetensors. With a text, what is written is also
    measured: KL divergence and top-1 agreement with the source on windows that were not calibrated on.
    """
    # Before NumPy is imported: the work is shared among threads by farthing, and BLAS's own would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from farthing.models.hub import find_model
    from farthing.tuning.job import QuantizeJob
    from farthing.tuning.run import quantize_model

    options = {} if tokens is None else {"num_tokens": tokens}
    job = QuantizeJob(format, bits, method, is_rotated, seed=seed, **options)
    path = find_model(source)
    with _terminated_as_interrupted(), progress() as bar:
        result = quantize_model(path, output, job, calibrate, is_overwrite=is_forced, tick=_bars(bar))
    document = _document(path, output, job.format, result)
    emit(json_mode, document, lambda: _show(document, result))


def _bars(bar: Any) -> "Tick":
    """A bar for each stage, with the time that is left."""
    from rich.progress import TimeRemainingColumn

    bar.columns = (*bar.columns, TimeRemainingColumn())
    tasks: dict[str, Any] = {}

    def tick(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done)

    return tick


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A polite kill leaves no half file either."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.glob("*.safetensors"))


def _document(path: Path, output: Path, format: str | None, result: "Quantized") -> dict[str, Any]:
    document = {
        "source": path,
        "output": output,
        "format": format or "mixed",
        "method": result.method,
        "bytes_before": _size(path),
        "bytes_after": _size(output),
        "bits_per_weight_before": round(result.bits_per_weight_before, 3),
        "bits_per_weight": round(result.bits_per_weight, 3),
        "num_weights": result.num_weights,
        "num_tensors": result.num_tensors,
        "num_tensors_kept": result.num_kept,
        "formats": dict(result.formats),
        "calibration_tokens": result.num_calibration_tokens,
    }
    if result.divergence is not None:
        document |= {
            "kl_divergence": result.divergence.kl_divergence,
            "top1_agreement": result.divergence.top1_agreement,
            "measured_tokens": result.divergence.num_positions,
        }
    return document


def _show(document: dict[str, Any], result: "Quantized") -> None:
    for when, path in (("_before", document["source"]), ("", document["output"])):
        size = document[f"bytes{when or '_after'}"] / 1e6
        typer.echo(f"{size:10.1f} MB  {document[f'bits_per_weight{when}']:6.2f} bits per weight  {path.name}")
    shares = ", ".join(f"{name} {n / result.num_weights:.1%}" for name, n in result.formats.items())
    typer.echo(f"weights: {shares}; method {result.method}")
    if result.num_kept:
        format = document["format"]
        typer.echo(f"{result.num_kept} matrices kept their format: their columns are not whole blocks of {format}")
    if result.divergence is not None:
        kl, top1, n = result.divergence.kl_divergence, result.divergence.top1_agreement, result.divergence.num_positions
        typer.echo(f"KL divergence from the source {kl:.5f} nats per token, top-1 agreement {top1:.2%} ({n:,} tokens)")

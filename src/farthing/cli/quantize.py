"""`farthing quantize SRC --format q4_1 -o OUT.gguf`: a model file with its weights in fewer bits."""

from pathlib import Path
from typing import Annotated

import typer

from farthing.cli._output import JsonOption, emit, progress
from farthing.errors import UnsupportedModel

__all__ = ["EXAMPLE", "quantize"]

EXAMPLE = "farthing quantize smollm2-135m-instruct --format q8_0 -o smollm2.Q8_0.gguf"


def quantize(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A GGUF file, or a pulled model's name.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.gguf", help="The file to write.")],
    format: Annotated[
        str, typer.Option("--format", "-f", help="f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or iq4_nl.")
    ],
    is_forced: Annotated[bool, typer.Option("--force", help="Replace OUT.gguf where it exists.")] = False,
    json_mode: JsonOption = False,
) -> None:
    """Write a model as a GGUF file in another weight format; llama.cpp loads it too.

    All matrices (embedding and head too) take the format, rounded to nearest; norms and biases are float32.
    """
    from farthing.models.checkpoint import load_model
    from farthing.models.gguf import read_gguf
    from farthing.models.gguf_write import reblock_gguf

    path = load_model(source).path  # opens all of it: what could not run is refused here
    if path.is_dir():
        raise UnsupportedModel(f"{source} is a Hugging Face folder; quantize takes GGUF files")
    with progress() as bar:
        task = bar.add_task(f"writing {output.name}", total=None)
        result = reblock_gguf(
            read_gguf(path),
            output,
            format,
            is_overwrite=is_forced,
            on_tensor=lambda done, total: bar.update(task, completed=done, total=total),
        )
    num_bytes = path.stat().st_size, output.stat().st_size
    bits = tuple(8 * n / result.num_weights for n in (result.tensor_bytes_before, result.tensor_bytes_after))
    document = {
        "source": path,
        "output": output,
        "format": format,
        "bytes_before": num_bytes[0],
        "bytes_after": num_bytes[1],
        "bits_per_weight_before": round(bits[0], 3),
        "bits_per_weight": round(bits[1], 3),
        "num_weights": result.num_weights,
        "num_tensors": result.num_tensors,
        "num_tensors_kept": result.num_kept,
    }

    def render() -> None:
        for name, size, per_weight in zip((path.name, output.name), num_bytes, bits, strict=True):
            typer.echo(f"{size / 1e6:10.1f} MB  {per_weight:6.2f} bits per weight  {name}")
        if result.num_kept:
            typer.echo(f"{result.num_kept} matrices kept their format: their columns are not whole blocks of {format}")

    emit(json_mode, document, render)

"""farthing pull: a model into the user's cache folder."""

import dataclasses
from typing import Annotated

import typer

from farthing.cli._output import DEFAULT_MODEL, JsonOption, console, emit, note, progress

__all__ = ["EXAMPLE", "pull"]

EXAMPLE = "farthing pull smollm2-135m-instruct"


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A known name, or hf:<owner>/<repo>, hf:<owner>/<repo>/<file>.gguf; @<revision> may follow.",
        ),
    ] = DEFAULT_MODEL,
    json: JsonOption = False,
) -> None:
    """Put a model into the cache folder (FARTHING_CACHE, else XDG_CACHE_HOME/farthing, else ~/.cache/farthing).

    Bytes are verified; a model that is there already is not fetched again.
    """
    from farthing.models.download import pull_model

    note(f"farthing: pulling {model}")
    if model.startswith("hf:"):
        pulled = pull_model(model)  # the hub's library shows its own bars, one per file
    else:
        with progress() as bar:
            task = bar.add_task("megabytes", total=None)

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done // 10**6, total=total // 10**6)

            pulled = pull_model(model, show)

    def render() -> None:
        state = "pulled" if pulled.fresh else "already there"
        console().print(f"{pulled.name}: {state}, {pulled.size_bytes / 1e6:.1f} MB, {pulled.path}")

    emit(json, dataclasses.asdict(pulled), render)

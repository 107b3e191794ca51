"""`farthing bench`: tokens a second of the arithmetic, beside this machine's limit at that moment."""

from dataclasses import asdict

from farthing.cli._engine import ProductOption, usable_threads
from farthing.cli._output import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    ThreadsOption,
    WeightsOption,
    console,
    emit,
    progress,
)

EXAMPLE = "farthing bench --weights q8_0 --json"


def bench(
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = None,
    product: ProductOption = None,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
) -> None:
    """Measure prefill and decode on this machine, and how near they come to what it can do."""
    from rich.table import Table

    from farthing.engine import EngineConfig
    from farthing.kernels import instruction_sets
    from farthing.models import load_model
    from farthing.report.machine import commit, this_machine
    from farthing.report.speed import default_works, measure_speed

    config = EngineConfig(num_threads=usable_threads(threads))
    product = product or config.product
    loaded = load_model(model, weights=weights)
    works = default_works(loaded.config.max_position_embeddings)
    with progress() as bar:
        task = bar.add_task("bench", total=len(works))
        rows, limits = measure_speed(
            loaded, works, product, config.num_threads, config.k_codec, lambda: bar.update(task, advance=1)
        )
    machine = this_machine(instruction_sets()[0])

    def show() -> None:
        out = console()
        out.print(f"{loaded.name}, {product} products, {config.num_threads} threads, {machine}")
        out.print(
            f"Limits now: {limits.read_gb_s:.1f} GB/s, {limits.f32_gflop_s:.0f} GFLOP/s in f32, "
            f"{limits.int8_gop_s:.0f} GOP/s in int8"
        )
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("work", "batch", "context", "tok/s", "GB/s", "GOP/s", "limit tok/s", "% of limit"):
            table.add_column(name, justify="left" if name == "work" else "right", no_wrap=True)
        for row in rows:
            figures = (row.tok_s, row.gb_s, row.gop_s, row.limit_tok_s, row.percent_of_limit)
            table.add_row(row.work, str(row.batch), str(row.context), *(f"{figure:.1f}" for figure in figures))
        out.print(table)

    document = {
        "rows": [asdict(row) for row in rows],
        "limits": asdict(limits),
        "machine": {"description": str(machine), **asdict(machine)},
        "commit": commit(),
        "model": loaded.name,
        "weights": weights or "file",
        "product": product,
        "threads": config.num_threads,
    }
    emit(json_mode, document, show)

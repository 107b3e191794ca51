"""`farthing bench`: tokens a second of the arithmetic, beside this machine's limit at that moment."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from farthing.cli._engine import ExpertsFolderOption, KVOption, ProductOption, engine_config, warn_of_codec
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

if TYPE_CHECKING:
    from rich.table import Table

    from farthing.kernels import Limits
    from farthing.report.speed import SpeedRow

EXAMPLE = "farthing bench --weights q8_0 --kv q8 --json"


def bench(
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = None,
    product: ProductOption = None,
    kv: KVOption = None,
    experts_folder: ExpertsFolderOption = None,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
) -> None:
    """Measure prefill and decode on this machine, how near they come to what it can do, and the cost of sampling."""
    from farthing.kernels import instruction_sets
    from farthing.models import load_model
    from farthing.report.engine_speed import engine_speed
    from farthing.report.machine import commit, this_machine
    from farthing.report.model_weights import ModelWeights
    from farthing.report.sampling_cost import ROOM, sampling_cost
    from farthing.report.speed import Bench, best_limits, default_works

    config = engine_config(threads, product, kv, experts_folder=experts_folder)
    loaded = load_model(model, weights=weights)
    warn_of_codec(loaded.name, kv)
    works = default_works(loaded.config.max_position_embeddings)
    with progress() as bar:
        task = bar.add_task("bench", total=len(works) + 2)
        measured = Bench(loaded, (*works, ROOM), config.product, config.num_threads, config.kv, experts_folder)
        rows: list[SpeedRow] = []
        for work in works:
            rows.append(measured.row(work))
            bar.update(task, advance=1)
        sampling, logits_hash = sampling_cost(measured), measured.logits_hash()
        bar.update(task, advance=1)
        whole = engine_speed(loaded, config)
    parts = ModelWeights.of(loaded)
    limits, machine = best_limits(row.limits for row in rows), this_machine(instruction_sets()[0])

    def show() -> None:
        out = console()
        out.print(
            f"{loaded.name}, {config.product} products, {config.kv} keys and values, "
            f"{config.num_threads} threads, {machine}"
        )
        out.print(parts.line())
        out.print(_limits_line(limits))
        out.print(_table(rows))
        out.print(
            f"Sampling at temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, {sampling.batch} sequences: "
            f"{sampling.percent:+.1f} % of a greedy step"
        )
        out.print(
            f"The whole engine, {whole.batch} greedy sequences, tokens chosen and text made: {whole.tok_s:.0f} tok/s"
        )
        out.print(f"Logits hash {logits_hash}")

    document = {
        "rows": [asdict(row) for row in rows],
        "limits": asdict(limits),
        "sampling": {**asdict(sampling), "percent": sampling.percent},
        "engine": asdict(whole),
        "logits_hash": logits_hash,
        "machine": {"description": str(machine), **asdict(machine)},
        "commit": commit(),
        "model": loaded.name,
        "weights": weights or "file",
        "cost": {**asdict(parts), **measured.kv_cost()},
        "product": config.product,
        "kv": config.kv,
        "threads": config.num_threads,
    }
    emit(json_mode, document, show)


def _limits_line(limits: "Limits") -> str:
    return (
        f"Limits, the best seen: {limits.read_gb_s:.1f} GB/s, {limits.f32_gflop_s:.0f} GFLOP/s in f32, "
        f"{limits.int8_gop_s:.0f} GOP/s in int8; each row is held to its own, measured just before and after"
    )


def _table(rows: "list[SpeedRow]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("work", "batch", "context", "tok/s", "GB/s", "GOP/s", "limit", "% of limit", "by"):
        table.add_column(name, justify="left" if name in ("work", "by") else "right", no_wrap=True)
    for row in rows:
        work = f"{row.work}, shared" if row.is_prefix_shared else row.work
        figures = (row.tok_s, row.gb_s, row.gop_s, row.limit_tok_s, row.percent_of_limit)
        table.add_row(work, str(row.batch), str(row.context), *(f"{figure:.1f}" for figure in figures), row.bound)
    return table

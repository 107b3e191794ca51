"""`farthing eval kv`: what each codec of keys and values does to the answers, and which is the cheapest that may."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._engine import ProductOption, engine_config
from farthing.cli._output import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    ThreadsOption,
    WeightsOption,
    console,
    emit,
    progress,
    read_text,
)
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.report.kv_quality import CodecRow

DEFAULT_WINDOWS = (512, 4096, 8192)
EXAMPLE = "farthing eval kv --text book.txt --window 512 --codecs q8,q8/tq4"


def kv(
    text: Annotated[str, typer.Option("--text", metavar="FILE", help="The text to predict; - reads standard input.")],
    window: Annotated[
        list[int] | None,
        typer.Option("--window", metavar="N", help="Tokens of a window; repeatable (default: 512, 4096 and 8192)."),
    ] = None,
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, metavar="N", help="Only the first N tokens of the text, or one window.")
    ] = 20_000,
    codecs: Annotated[
        str | None,
        typer.Option("--codecs", metavar="A,B", help="Codecs, K/V where they differ (default: all, and q8/tq4)."),
    ] = None,
    edge_layers: Annotated[
        int | None,
        typer.Option("--edge-layers", min=0, metavar="N", help="First and last layers in q8 beside TurboQuant's."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = None,
    product: ProductOption = None,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
) -> None:
    """KL divergence, top-1 agreement and perplexity beside f16 keys and values, over the targets of each window's
    second half, and the share of codes hidden in the text that are found again exactly. A codec passes with a KL
    divergence under 0.01 nats and a top-1 agreement over 97 % at every window. Products are f32 unless --product says
    int8: those round activations, which differ with every codec, and that alone is a KL divergence of some 0.004."""
    given = read_text(text)
    wanted = tuple(window or DEFAULT_WINDOWS)

    from farthing.models import load_model
    from farthing.report.kv_quality import GATED, cheapest, measure_codecs

    names = GATED if codecs is None else tuple(name.strip() for name in codecs.split(",") if name.strip())
    if not names:
        raise InvalidRequest(f"--codecs {codecs!r} names no codec; write, for instance, q8,q8/tq4")
    config = engine_config(threads, product or "f32")
    if edge_layers is not None:
        config = replace(config, num_edge_layers=edge_layers)
    loaded = load_model(model, weights=weights)
    longest = loaded.config.max_position_embeddings
    if unfit := [n for n in wanted if n > longest]:
        if window is not None:
            raise InvalidRequest(f"--window {unfit[0]} is longer than {loaded.name}'s context of {longest} tokens")
        wanted = tuple(n for n in wanted if n <= longest) or (longest,)
    ids = loaded.tokenizer.encode(given, add_bos=False)
    rows: list[CodecRow] = []
    with progress() as bar:
        task = bar.add_task("codecs", total=len(wanted) * len(names))
        for n in wanted:
            rows += measure_codecs(loaded, ids, n, max(tokens, n), names, config, lambda: bar.advance(task))
    document: dict[str, Any] = {
        "codecs": [_entry(row) for row in rows],
        "cheapest_that_passes": cheapest(rows),
        "model": loaded.name,
        "windows": wanted,
        "tokens": tokens,
        "product": config.product,
        "edge_layers": config.num_edge_layers,
    }
    emit(json_mode, document, lambda: _show(document, rows))


def _entry(row: "CodecRow") -> dict[str, Any]:
    return {**row.__dict__, "passes": row.passes}


def _show(document: dict[str, Any], rows: "list[CodecRow]") -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("window", "K/V", "bits per value", "KL divergence", "top-1", "perplexity", "retrieved", ""):
        table.add_column(name, justify="left" if name in ("K/V", "") else "right")
    for row in rows:
        table.add_row(
            f"{row.window:,}",
            row.codec,
            f"{row.bits_per_value:.2f}",
            f"{row.kl_divergence:.5f}",
            f"{row.top1_agreement:.2%}",
            f"{row.perplexity:.3f}",
            f"{row.retrieve_accuracy:.1%}",
            "passes" if row.passes else "fails",
        )
    console().print(table)
    found = document["cheapest_that_passes"]
    print(
        f"{document['model']}, {document['product']} products; "
        + (f"cheapest that passes: {found}" if found else "none passes")
    )
    if any("tq" in row.codec for row in rows):
        print(f"The first and last {document['edge_layers']} layers are kept in q8 where a codec is TurboQuant's.")

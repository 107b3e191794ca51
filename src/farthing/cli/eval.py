"""`farthing eval`: how well a model, in the formats it runs in, predicts a text. Codecs of K and V: eval_kv.py."""

from typing import Annotated, Any

import typer

from farthing.cli import eval_kv
from farthing.cli._engine import KVOption, ProductOption, engine_config
from farthing.cli._output import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    ThreadsOption,
    WeightsOption,
    emit,
    progress,
    read_text,
)

EXAMPLE = "farthing eval perplexity --text book.txt --window 512 --against f32"

app = typer.Typer(help="Measure how good a model's predictions are.", rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def _eval() -> None:
    """Measure how good a model's predictions are."""


app.command("kv", epilog=f"Example: {eval_kv.EXAMPLE}")(eval_kv.kv)


@app.command("perplexity", epilog=f"Example: {EXAMPLE}")
def perplexity(
    text: Annotated[str, typer.Option("--text", metavar="FILE", help="The text to predict; - reads standard input.")],
    window: Annotated[int, typer.Option("--window", metavar="N", help="Tokens of a window; each stands alone.")] = 512,
    tokens: Annotated[
        int | None, typer.Option("--tokens", min=1, metavar="N", help="Only the first N tokens of the text.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="FORMAT", help="Compare with these weights, all else in f32.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    weights: WeightsOption = None,
    product: ProductOption = None,
    kv: KVOption = None,
    threads: ThreadsOption = None,
    json_mode: JsonOption = False,
) -> None:
    """Perplexity over windows of a text, no BOS: of the targets in each window's second half (llama-perplexity's
    convention), and of all targets. --against f32 adds KL divergence and top-1 agreement with full precision: those
    weights multiplied in f32, keys and values kept in f32."""
    given = read_text(text)

    from farthing.models import load_model
    from farthing.report import quality
    from farthing.report.levers import effective_product
    from farthing.report.score import Scorer

    config = engine_config(threads, product, kv)
    loaded = load_model(model, weights=weights)
    pieces = quality.windows(loaded.tokenizer.encode(given, add_bos=False), window, tokens)
    reference = Scorer(load_model(model, weights=against), window, "f32", config.num_threads) if against else None
    scorer = Scorer(loaded, window, config.product, config.num_threads, config.k_codec, config.v_codec)
    with progress() as bar:
        task = bar.add_task("perplexity", total=window * len(pieces))
        found = quality.perplexity(scorer, pieces, reference, lambda n: bar.update(task, advance=n))

    document: dict[str, Any] = {
        "perplexity": found.perplexity,
        "perplexity_all_targets": found.perplexity_all_targets,
        "tokens": found.num_tokens,
        "windows": found.num_windows,
        "window": window,
        "model": loaded.name,
        "weights": weights or "file",
        "product": effective_product(loaded.plan(config.product), config.product),
        "kv": config.kv,
    }
    if found.divergence is not None:
        document |= {
            "against": against,
            "kl_divergence": found.divergence.kl_divergence,
            "top1_agreement": found.divergence.top1_agreement,
        }
    emit(json_mode, document, lambda: _show(document))


def _show(document: dict[str, Any]) -> None:
    print(f"perplexity {document['perplexity']:.4f} (targets of each window's second half)")
    print(f"perplexity {document['perplexity_all_targets']:.4f} (all targets)")
    if "against" in document:
        kl, top1 = document["kl_divergence"], document["top1_agreement"]
        print(f"KL divergence from {document['against']} {kl:.6f} nats per token, top-1 agreement {top1:.2%}")
    of_weights = "the file's weights" if document["weights"] == "file" else f"{document['weights']} weights"
    print(
        f"{document['model']}, {of_weights}, {document['product']} products, {document['kv']} keys and values; "
        f"{document['tokens']:,} tokens in {document['windows']} windows of {document['window']}"
    )

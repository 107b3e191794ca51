"""`farthing classify`: labels with probabilities for a file of texts, how many are right, how fast and for how much."""

import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._engine import DEFAULT_HOST, ProductOption, usable_threads
from farthing.cli._output import (
    JsonOption,
    ThreadsOption,
    UsdPerHourOption,
    WeightsOption,
    console,
    emit,
    note,
    progress,
    visible,
    warn,
)
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.engine.labelling import Labeller
    from farthing.report.classify import Classified, Summary

EXAMPLE = "farthing classify models/intents questions.jsonl --out labels.jsonl"
SHOWN_TEXT = 70  # letters of a text in the terminal

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A folder, .gguf or .safetensors file with a classification head; a cascade; a slot."
    ),
]
DataArgument = Annotated[
    Path,
    typer.Argument(metavar="DATA", help='JSON Lines with "text", "prompt" or "messages"; with "answer" it is judged.'),
]


def classify(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write a line of JSON for each row.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="The N likeliest labels of each row.")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N rows.")] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, metavar="N", help="Rows that are given to the model together.")
    ] = 256,
    point: Annotated[
        str | None, typer.Option("--point", metavar="POINT", help="Of a cascade: best (the default) or cheapest.")
    ] = None,
    weights: WeightsOption = None,
    product: ProductOption = None,
    threads: ThreadsOption = None,
    usd_per_hour: UsdPerHourOption = DEFAULT_HOST.usd_per_hour,
    json_mode: JsonOption = False,
) -> None:
    """Label texts with a classifier: a model with a classification head, as `farthing distill` makes them or
    transformers saves them (...ForSequenceClassification), or with a cascade."""
    from contextlib import nullcontext

    from farthing.economics.cost import HostCost
    from farthing.engine.cascade_classifier import BEST
    from farthing.engine.classifier import ClassifierConfig
    from farthing.engine.open_labeller import open_labeller
    from farthing.report.classify import classify_rows, read_rows, row_json, summary_of
    from farthing.report.whole_file import whole_file

    rows = read_rows(data, limit)
    more: dict[str, Any] = {} if product is None else {"product": product}
    config = ClassifierConfig(num_threads=usable_threads(threads), **more)
    classifier = open_labeller(model, config, weights=weights, point=point or BEST)
    if point is not None and not classifier.stages:
        raise InvalidRequest(f"--point is {point!r}, and {classifier.name} is a single model; leave it out")
    unknown = sorted({answer for row in rows for answer in row.answers} - set(classifier.labels))
    if unknown:
        warn(f"{len(unknown)} answers are no label of this model and count as wrong: {', '.join(unknown[:5])}")
    classifier.warm_up()  # so that making room is in no figure
    with nullcontext() if out is None else whole_file(out, "--out") as file:
        with progress() as bar:
            task = bar.add_task("classify", total=len(rows))
            found, seconds, num_tokens = classify_rows(
                classifier, rows, batch=batch, num_top=top, on_rows=lambda n: bar.update(task, advance=n)
            )
        if file is not None:
            file.writelines(json.dumps(row_json(one), ensure_ascii=False) + "\n" for one in found)
    summary = summary_of(found, seconds, num_tokens, HostCost(usd_per_hour))
    document = _document(classifier, summary, weights)
    if classifier.stages:
        document |= {"point": point or BEST, "stages": _by_stage(classifier, summary)}
    if out is None:
        document["rows"] = [row_json(one) for one in found]

    def show() -> None:
        if out is None:
            _show_rows(found)
        _show(summary, classifier, usd_per_hour)
        if out is not None:
            note(f"{len(found):,} labels in {out}")

    emit(json_mode, document, show)


def _document(classifier: "Labeller", summary: "Summary", weights: str | None) -> dict[str, Any]:
    return {
        "model": classifier.name,
        "weights": weights or "file",
        "weight_bytes": classifier.weight_bytes,
        "labels": len(classifier.labels),
        "threads": classifier.config.num_threads,
        "product": classifier.config.product,
        "num_rows": summary.num_rows,
        "num_tokens": summary.num_tokens,
        "seconds": summary.seconds,
        "requests_per_s": summary.requests_per_s,
        "tokens_per_s": summary.tokens_per_s,
        "usd_per_million": summary.usd_per_million,
        "num_judged": summary.num_judged,
        "num_right": summary.num_right,
        "accuracy": summary.accuracy,
        "interval": summary.interval,
    }


def _by_stage(classifier: "Labeller", summary: "Summary") -> dict[str, int]:
    return {stage: summary.num_by_stage.get(stage, 0) for stage in classifier.stages}


def _show_rows(found: "list[Classified]") -> None:
    out = console()
    for one in found:
        mark = {None: "", True: " ", False: "✗"}[one.is_right]
        shown = ", ".join(f"{visible(label)} {share:.3f}" for label, share in one.top)
        text = visible(one.row.text)
        out.print(f"{mark}{shown}\t{text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + '…'}")


def _show(summary: "Summary", classifier: "Labeller", usd_per_hour: Decimal) -> None:
    if summary.accuracy is not None and summary.interval is not None:
        low, high = summary.interval
        print(
            f"accuracy {summary.accuracy:.2%} ({low:.2%} to {high:.2%} at 95 %), "
            f"{summary.num_right:,} of {summary.num_judged:,} rows"
        )
    print(
        f"{summary.num_rows:,} rows, {summary.num_tokens:,} tokens in {summary.seconds:.2f} s: "
        f"{summary.requests_per_s:,.0f} rows/s, {summary.tokens_per_s:,.0f} tok/s, "
        f"{summary.usd_per_million:.4f} USD for a million rows at {usd_per_hour} USD an hour"
    )
    if classifier.stages:
        parts = (f"{visible(stage)} {num:,}" for stage, num in _by_stage(classifier, summary).items())
        print(f"answered by: {', '.join(parts)}")
    config, size = classifier.config, classifier.weight_bytes / 1e6
    print(
        f"{classifier.name}, {len(classifier.labels)} labels, {size:,.1f} MB of weights, {config.product} "
        f"products, {config.num_threads} threads"
    )

"""`farthing compare`: which model is good enough for a task, and what each costs on it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farthing.cli._output import JsonOption, ThreadsOption, WeightsOption, console, emit, note, parse_decimal, progress
from farthing.errors import FarthingError, InvalidRequest

if TYPE_CHECKING:
    from farthing.economics.charge import Pricer
    from farthing.economics.prices import PriceBook
    from farthing.report.compare import Comparison
    from farthing.report.compare_answers import Answer, AnswersFile
    from farthing.report.compare_run import Asking, Candidate
    from farthing.report.compare_task import TaskRow
    from farthing.server.config_file import Config

EXAMPLE = "farthing compare task.jsonl --models smollm2-135m-instruct,openai/gpt-5-nano --config farthing.toml"


def parse_temperature(text: str) -> Decimal | None:
    """`default` leaves the field out: some models take no other than their own."""
    return None if text == "default" else parse_decimal(text)


def compare(
    task: Annotated[
        Path, typer.Argument(metavar="TASK.jsonl", help="Labelled prompts: a chat request and its answer per line.")
    ],
    models: Annotated[
        list[str], typer.Option("--models", metavar="A,B,C", help="upstream/model of --config, or local: name@q8_0.")
    ],
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The farthing.toml.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Keep every answer as JSON Lines, and go on from it.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the chart.")] = None,
    ledger: Annotated[
        str | None, typer.Option("--ledger", metavar="URL", help="Write each attempt into this ledger too.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N rows.")] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="Requests under way at once, of one model.")
    ] = 1,
    temperature: Annotated[str, typer.Option(metavar="X", help="0 is greedy; `default` leaves it to the model.")] = "0",
    seed: Annotated[int | None, typer.Option(metavar="N", help="Sent along, where sampling is to be repeated.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Of an answer; a row's own goes first.")] = 256,
    alpha: Annotated[float, typer.Option(metavar="P", help="How rarely a model as good is called worse.")] = 0.05,
    usd_per_hour: Annotated[
        Decimal | None, typer.Option(parser=parse_decimal, metavar="USD", help="Price of this machine per hour.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own prices (TOML), as for price.")] = None,
    threads: ThreadsOption = None,
    weights: WeightsOption = None,
    json: JsonOption = False,
) -> None:
    """Run labelled prompts through models, and name the cheapest that is not significantly worse than the best.

    Ctrl-C stops early and shows what there is; with --out the next run goes on from there.
    """
    from farthing.report.compare_answers import AnswersFile
    from farthing.report.compare_html import to_html
    from farthing.report.compare_json import to_json
    from farthing.report.compare_run import Asking
    from farthing.report.compare_task import read_task
    from farthing.report.compare_terminal import print_comparison
    from farthing.report.whole_file import whole_file

    names = list(dict.fromkeys(name.strip() for given in models for name in given.split(",") if name.strip()))
    if not names:
        raise InvalidRequest("--models names none; give one or more, with commas")
    if not 0 < alpha < 0.5:
        raise InvalidRequest(f"--alpha is {alpha}; allowed: above 0, below 0.5")
    heat = parse_temperature(temperature)
    if heat is not None and not 0 <= heat <= 2:
        raise InvalidRequest(f"--temperature is {heat}; allowed: 0 to 2, or default")
    rows = read_task(task, limit)
    asking = Asking(None if heat is None else float(heat), seed, max_tokens, concurrency)
    settings = _settings(config, usd_per_hour, prices)
    with ExitStack() as files:
        page = None if html is None else files.enter_context(whole_file(html, "--html"))
        work = _Work(task.name, rows, asking, alpha)
        kept = None if out is None else files.enter_context(closing(AnswersFile(out)))
        found = asyncio.run(_compare(work, settings, names, kept, ledger, weights, threads))
        if page is not None:
            page.write(to_html(found))
    emit(json, to_json(found), lambda: print_comparison(found, console()))
    if html is not None:
        note(f"page: {html}")
    if found.is_partial:
        raise KeyboardInterrupt


@dataclass
class _Work:
    """The rows, and what has been answered so far."""

    task: str
    rows: "Sequence[TaskRow]"
    asking: "Asking"
    alpha: float
    answers: "dict[str, list[Answer]]" = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


async def _compare(
    work: _Work,
    config: "Config",
    names: Sequence[str],
    kept: "AnswersFile | None",
    ledger: str | None,
    weights: str | None,
    threads: int | None,
) -> "Comparison":
    """Model after model, so that none disturbs another's latencies. Cancelled, what there is."""
    from farthing.cli._candidates import Candidates
    from farthing.economics.charge import Pricer
    from farthing.economics.cost import HostCost
    from farthing.ledger import Books, LedgerConfig
    from farthing.report.compare import compare

    host = HostCost(config.economics.usd_per_hour, config.economics.utilisation)
    pricer = Pricer(_book(config.economics.prices), host, config.economics.baseline)
    is_partial = False
    try:
        async with AsyncExitStack() as stack:
            books = None
            if ledger is not None:
                books = await Books.open(LedgerConfig(url=ledger), pricer)
                stack.push_async_callback(books.aclose)
            finder = Candidates(config, host, books, weights, threads)
            candidates = [finder.find(name) for name in names]  # a wrong name is told before anything is paid
            with progress() as bar:
                for candidate in candidates:
                    task = bar.add_task(candidate.name, total=len(work.rows))
                    await _ask(work, candidate, kept, pricer, partial(bar.update, task, advance=1))
    except asyncio.CancelledError:
        current = asyncio.current_task()
        assert current is not None
        current.uncancel()
        is_partial = True
    notes = [f"local models: {host.usd_per_hour} USD an hour ({host.source}), busy while it answers"]
    if work.asking.concurrency > 1:
        notes.append(f"latencies are those of {work.asking.concurrency} requests at once")
    return compare(
        work.task, len(work.rows), work.answers, work.alpha, work.stopped, is_partial=is_partial, notes=notes
    )


async def _ask(
    work: _Work, candidate: "Candidate", kept: "AnswersFile | None", pricer: "Pricer", advance: Callable[[], None]
) -> None:
    """All rows that have no answer yet. A model that cannot be opened or asked is given up, the others go on."""
    from farthing.report.compare_answers import judged
    from farthing.report.compare_run import ask_all, key_of

    answers = work.answers[candidate.name] = []
    found: Mapping[str, Answer] = {} if kept is None else kept.found
    missing = []
    for row in work.rows:
        known = found.get(key_of(row, candidate, work.asking))
        if known is None or known.error is not None:
            missing.append(row)
        else:
            answers.append(judged(known, row))
            advance()
    if answers:
        note(f"{candidate.name}: {len(answers):,} of {len(work.rows):,} answers are there already")

    def told(answer: "Answer") -> None:
        answers.append(answer)
        if kept is not None:
            kept.add(answer)
        advance()

    if not missing:
        return
    try:
        async with candidate.open() as upstream:
            stopped = await ask_all(candidate, upstream, missing, work.asking, pricer, told)
    except FarthingError as error:
        stopped = str(error)
    if stopped is not None:
        work.stopped[candidate.name] = stopped


def _settings(path: Path | None, usd_per_hour: Decimal | None, prices: Path | None) -> "Config":
    """The file's configuration, or the defaults, with what the options say put over it."""
    from dataclasses import replace

    from farthing.server.config_file import Config, read_config

    config = Config() if path is None else read_config(path)
    given = {name: value for name, value in (("usd_per_hour", usd_per_hour), ("prices", prices)) if value is not None}
    return replace(config, economics=replace(config.economics, **given))  # type: ignore[arg-type]


def _book(path: Path | None) -> "PriceBook":
    from farthing.economics.price_file import default_path
    from farthing.economics.prices import PriceBook

    found = path or (default_path() if default_path().exists() else None)
    return PriceBook() if found is None else PriceBook.load(found)

"""`farthing bill`: what the ledger's rows cost and saved, for people, as a page, as FOCUS rows; and others' usage."""

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farthing.cli._ledger import ConfigOption, LedgerOption, ledger_config
from farthing.cli._output import JsonOption, console, emit, note, parse_decimal
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.economics.prices import PriceBook
    from farthing.ledger.reader import Reader
    from farthing.report.bill_elsewhere import Local
    from farthing.report.bill_learned import Learned
    from farthing.report.bill_period import Period

EXAMPLE = "farthing bill --month 2026-11 --by model,key,lever --html bill.html"
DEFAULT_BY = ("model", "key", "project", "tag", "route", "day", "lever")


def bill(
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From then on, UTC (default: this month).")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until then, UTC (default: now).")] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A whole month, UTC.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="WHAT", help="model, key, project, tag, route, day, lever, …; with commas."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts.")] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="Write FOCUS 1.2 rows as CSV; - is stdout.")
    ] = None,
    import_file: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE", help="OpenAI's usage export or LiteLLM's spend logs: priced elsewhere."
        ),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--models", metavar="NAMES", help="With --import: where else; with commas.")
    ] = None,
    usd_per_mtok_in: Annotated[
        Decimal | None,
        typer.Option(parser=parse_decimal, metavar="USD", help="With --import: what input costs on this machine."),
    ] = None,
    usd_per_mtok_out: Annotated[
        Decimal | None, typer.Option(parser=parse_decimal, metavar="USD", help="The same for output.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --import: your own prices (TOML), as for price.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Spend and saving of a month or any period: by model, key, project, tag, route, day and lever, with a forecast.

    Amounts are the ledger's own, to the last pico-dollar. A row without a price is counted and named, never 0.
    """
    from farthing.report.bill_period import parse_period

    if export is not None and (json or html is not None or import_file is not None):
        raise InvalidRequest("--export writes the ledger's rows; leave out --json, --html and --import")
    period = parse_period(since, until, month, datetime.now(UTC))
    if import_file is not None:
        if html is not None or by or since or until or month:
            raise InvalidRequest("--import shows a whole file; leave out --html, --by, --since, --until and --month")
        local = _local(usd_per_mtok_in, usd_per_mtok_out, ledger, config, period)
        return _import(import_file, models, local, _book(prices), json)
    for option, value in (("models", models), ("prices", prices), ("usd-per-mtok-in", usd_per_mtok_in)):
        if value is not None:
            raise InvalidRequest(f"--{option} belongs to --import; give the file with it")
    with _open(ledger, config) as reader:
        if export is not None:
            _export(reader, period, export)
        else:
            _bill(reader, period, _dimensions(by), html, json, config)
    return None


def _open(ledger: str | None, config: Path | None) -> "Reader":
    from farthing.ledger.reader import open_reader

    return open_reader(ledger_config(ledger, config).url)


def _dimensions(by: list[str] | None) -> list[str]:
    from farthing.report.bill import DIMENSIONS

    names = [name.strip() for given in by or DEFAULT_BY for name in given.split(",")]
    for name in names:
        if name not in (*DIMENSIONS, "lever"):
            raise InvalidRequest(f"--by {name!r} is not known; allowed: {', '.join((*DIMENSIONS, 'lever'))}")
    return list(dict.fromkeys(names))


def _bill(
    reader: "Reader", period: "Period", dimensions: list[str], html: Path | None, json: bool, config: Path | None
) -> None:
    from contextlib import ExitStack

    from farthing.report.bill import collect
    from farthing.report.bill_budgets import budget_documents, budget_lines
    from farthing.report.bill_forecast import history_us
    from farthing.report.bill_html import to_html
    from farthing.report.bill_json import to_json
    from farthing.report.bill_lot import lots
    from farthing.report.bill_terminal import print_bill
    from farthing.report.bill_words import shown
    from farthing.report.model_weights import local_weights
    from farthing.report.whole_file import whole_file

    names, rooms = _key_names(reader), reader.budgets()
    over = reader.overshoots(period.since_us, period.until_us)
    budgets = budget_lines(rooms, names, over)
    with ExitStack() as files:
        out = None if html is None else files.enter_context(whole_file(html, "--html"))
        before = history_us(period)
        history = () if before is None else reader.rows(before, period.since_us)
        grouped = [name for name in dimensions if name != "lever"]
        taught = _learned(config, period)
        found = collect(reader.rows(period.since_us, period.until_us), period, grouped, history, taught)
        found.key_names = names
        if "route" in grouped:
            found.lots = lots(found.routers, reader.routed_scores(period.since_us, period.until_us))
        if found.total.num_rows == 0:
            raise InvalidRequest(f"the ledger has no row from {period.text}; see another time with --since or --month")
        if out is not None:
            out.write(to_html(found, dimensions, budgets))
    local = local_weights(found, _sources(config))

    def show() -> None:
        print_bill(found, dimensions, budgets, console())
        for name, parts in local.items():
            console().print(f"On this machine: {shown(name, 60)}, {parts.line()}")

    document = to_json(found, budget_documents(rooms, over), dimensions)
    document["local_models"] = [{"name": name, **asdict(parts)} for name, parts in local.items()]
    emit(json, document, show)
    if html is not None:
        note(f"page: {html}")


def _learned(config: Path | None, period: "Period") -> "Learned | None":
    """The model that a configuration file's [learn] teaches, and what became of its versions."""
    from farthing.report.bill_learned import Learned
    from farthing.report.learn_history import read_history
    from farthing.server.config_file import read_config

    if config is None:
        return None
    found = read_config(config)
    model, slot = found.learn.get("model"), found.learn.get("slot")
    if not isinstance(model, str) or not isinstance(slot, str):
        return None
    return Learned.of(model, read_history(found.folder / Path(slot).expanduser()), period)


def _sources(config: Path | None) -> dict[str, str]:
    """The models of this machine that a configuration file serves: names and paths."""
    from farthing.server.config_file import read_config
    from farthing.upstreams.local_model import served_name

    entries = () if config is None else read_config(config).upstreams
    models = [model for entry in entries if entry.kind == "local" for model in entry.options.get("models", [])]
    return {served_name(model): model for model in models}


def _key_names(reader: "Reader") -> dict[str, str]:
    known = reader.keys()
    return {key.id: key.name for key in known}


def _export(reader: "Reader", period: "Period", target: str) -> None:
    from farthing.report.bill_words import exact
    from farthing.report.focus import export
    from farthing.report.whole_file import whole_file

    rows = reader.rows(period.since_us, period.until_us)
    names = _key_names(reader)
    if target == "-":
        told = export(rows, sys.stdout, names)
    else:
        with whole_file(Path(target), "--export") as out:
            told = export(rows, out, names)
    note(f"{told.num_rows:,} attempts, ${exact(told.cost_pico)}, from {period.text}")
    if told.num_unpriced:
        note(f"left out: {told.num_unpriced:,} attempts without a price (FOCUS allows no empty cost, 0 would be wrong)")


def _book(path: Path | None) -> "PriceBook":
    from farthing.economics.price_file import default_path
    from farthing.economics.prices import PriceBook

    if path is not None:
        return PriceBook.load(path)
    return PriceBook.load(default_path()) if default_path().exists() else PriceBook()


def _local(
    given_in: Decimal | None, given_out: Decimal | None, ledger: str | None, config: Path | None, period: "Period"
) -> "Local | None":
    """This machine's rates: as given, or measured in the ledger where one is named or lies in its usual place."""
    from farthing.report.bill_elsewhere import Local, measured_local

    if (given_in is None) is not (given_out is None):
        raise InvalidRequest("--usd-per-mtok-in and --usd-per-mtok-out belong together; give both")
    if given_in is not None and given_out is not None:
        if not (0 <= given_in <= 10**6 and 0 <= given_out <= 10**6):
            raise InvalidRequest("--usd-per-mtok-in and --usd-per-mtok-out must be US dollars from 0 to 1,000,000")
        return Local(given_in, given_out, "as given")
    path = ledger_config(ledger, config).sqlite_path
    if ledger is None and config is None and (path is None or not path.exists()):
        return None
    with _open(ledger, config) as reader:
        return measured_local(reader.rows(period.since_us, period.until_us))


def _import(path: Path, models: list[str] | None, local: "Local | None", book: "PriceBook", json: bool) -> None:
    from farthing.economics.cost import DEFAULT_HOSTED
    from farthing.report.bill_elsewhere import compare
    from farthing.report.bill_import import read_usage
    from farthing.report.bill_import_table import import_json, print_import

    names = [name.strip() for given in models or DEFAULT_HOSTED for name in given.split(",") if name.strip()]
    told, uses = read_usage(path)
    found = compare(uses, names, book, datetime.now(UTC), local)
    for bad in told.bad:
        note(f"not read: {bad}")
    if told.num_bad > len(told.bad):
        note(f"not read: {told.num_bad - len(told.bad):,} more rows")
    emit(json, import_json(told, found), lambda: print_import(told, found, console()))

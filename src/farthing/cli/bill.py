"""`farthing bill`: what the ledger's rows cost and saved, for people, as a page, as FOCUS rows; and others' usage."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from farthing.cli._output import JsonOption, console, emit, note, parse_decimal
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.economics.prices import PriceBook
    from farthing.ledger.reader import Reader
    from farthing.report.bill_elsewhere import Local
    from farthing.report.bill_period import Period

EXAMPLE = "farthing bill --month 2026-11 --by model,key,lever --html bill.html"
DEFAULT_BY = ("model", "key", "project", "tag", "day", "lever")


def bill(
    ledger: Annotated[
        str | None, typer.Option("--ledger", metavar="URL", help="sqlite:///FILE or postgresql://… (default: serve's).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A farthing.toml, whose [ledger] says where it is.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="From then on, UTC (default: this month).")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Until then, UTC (default: now).")] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A whole month, UTC.")] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="WHAT", help="model, key, project, tag, day, lever, upstream, …; with commas."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts.")] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="FILE", help="Write FOCUS 1.2 rows as CSV; - is stdout.")
    ] = None,
    import_file: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="OpenAI's usage export or LiteLLM's spend logs: priced elsewhere."),
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
    """Spend and saving of a month or any period: by model, key, project, tag, day and lever, with a forecast.

    Amounts are the ledger's own, to the last pico-dollar. A row without a price is counted and named, never 0.
    """
    from farthing.report.bill_period import parse_period

    if ledger is not None and config is not None:
        raise InvalidRequest("--ledger and --config both say where the ledger is; give one of them")
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
            _bill(reader, period, _dimensions(by), html, json)
    return None

"""farthing price: what a number of tokens costs at a hosted model, on this machine, or both side by side."""

from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, emit, parse_decimal, warn
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.economics.prices import Bill, Price, PriceBook, TokenCounts

EXAMPLE = "farthing price --model gemini-3.1-pro-preview --input-tokens 50000 --output-tokens 2000"


def price(
    model: Annotated[str | None, typer.Option("--model", "-m", help="A hosted model's name, or provider/name.")] = None,
    input_tokens: Annotated[int, typer.Option(help="Everything the model reads, cached tokens included.")] = 0,
    output_tokens: Annotated[int, typer.Option(help="Everything it writes, reasoning included.")] = 0,
    cache_read_tokens: Annotated[int, typer.Option(help="Input tokens read from the provider's cache.")] = 0,
    cache_write_tokens: Annotated[int, typer.Option(help="Input tokens written to the provider's cache.")] = 0,
    cache_write_1h_tokens: Annotated[int, typer.Option(help="Of those written, tokens kept for an hour.")] = 0,
    batch: Annotated[bool, typer.Option("--batch", help="The provider's batch price.")] = False,
    provider: Annotated[str | None, typer.Option(help="Who sells it, for instance openrouter.")] = None,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own prices (TOML); default: ~/.config/farthing/prices.toml."),
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="DATE", help="Price valid then, e.g. 2026-10-01 (UTC).")] = None,
    seconds: Annotated[
        Decimal | None,
        typer.Option(parser=parse_decimal, metavar="S", help="Self-hosted: seconds this machine was busy."),
    ] = None,
    usd_per_hour: Annotated[
        Decimal | None, typer.Option(parser=parse_decimal, metavar="USD", help="Self-hosted: price of the machine.")
    ] = None,
    utilisation: Annotated[
        Decimal | None,
        typer.Option(parser=parse_decimal, metavar="SHARE", help="Self-hosted: share of its time it works, e.g. 0.3."),
    ] = None,
    watts: Annotated[
        Decimal | None, typer.Option(parser=parse_decimal, metavar="W", help="Self-hosted: power drawn when busy.")
    ] = None,
    usd_per_kwh: Annotated[
        Decimal | None, typer.Option(parser=parse_decimal, metavar="USD", help="Self-hosted: price of electricity.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Price tokens at a hosted model, on this machine, or both.

    --model names a hosted model, --seconds says how long this machine was busy. A price that is not known is an
    error, never 0. All prices come from this computer: no network is used.
    """
    from farthing.economics.prices import TokenCounts

    counts = TokenCounts(input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cache_write_1h_tokens)
    machine = {"usd_per_hour": usd_per_hour, "utilisation": utilisation, "watts": watts, "usd_per_kwh": usd_per_kwh}
    given = {name: value for name, value in machine.items() if value is not None}
    if given and seconds is None:
        raise InvalidRequest(f"--{next(iter(given)).replace('_', '-')} prices this machine and needs --seconds")
    if model is None and seconds is None:
        raise InvalidRequest("nothing to price: give --model for a hosted model, or --seconds for this machine")
    if model is not None and input_tokens + output_tokens == 0:
        raise InvalidRequest("nothing to price: give --input-tokens and --output-tokens")

    document: dict[str, Any] = {}
    lines: list[str] = []
    if model is not None:
        moment = _moment(at)
        found = _book(prices).find(model, at=moment, provider=provider, batch=batch)
        bill = found.bill(counts)
        warning = found.source.warning(datetime.now(UTC).date())
        if warning:
            warn(warning)
        document = _hosted_document(found, bill, counts, moment, warning)
        lines = _hosted_lines(found, bill, counts)
    if seconds is not None:
        own, own_lines = _machine(given, seconds, counts, Decimal(document["total_usd"]) if document else None)
        lines += ["", *own_lines] if lines else own_lines
        items = [{"name": "machine", "seconds": seconds, "usd": own["usd"]}]
        document = document | {"self_hosted": own} if document else {"total_usd": own["usd"], "items": items, **own}
    emit(json, document, lambda: typer.echo("\n".join(lines)))


def _moment(at: str | None) -> datetime:
    if at is None:
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise InvalidRequest(f"--at is {at!r}; write a day like 2026-10-01, or a time like 2026-10-01T12:00") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _book(path: Path | None) -> "PriceBook":
    from farthing.economics.price_file import default_path
    from farthing.economics.prices import PriceBook

    if path is not None:
        return PriceBook.load(path)
    return PriceBook.load(default_path()) if default_path().exists() else PriceBook()


def _hosted_document(
    found: "Price", bill: "Bill", counts: "TokenCounts", moment: datetime, warning: str | None
) -> dict[str, Any]:
    from farthing.economics.prices import usd_text

    usd = usd_text(bill.total_usd)[0]
    items = [asdict(item) | {"usd": usd_text(item.usd)[0]} for item in bill.items]
    source = {"text": found.source.text, "name": found.source.name, "date": str(found.source.dated)}
    return {
        "model": found.model,
        "provider": found.provider,
        "total_usd": usd,
        "items": items,
        "batch": found.batch,
        "tier_above": found.tier(counts.input_tokens),
        "at": moment.isoformat(timespec="seconds"),
        "source": source | {"dated_by": found.source.dated_by, "warning": warning},
    }


def _hosted_lines(found: "Price", bill: "Bill", counts: "TokenCounts") -> list[str]:
    from farthing.economics.prices import usd_text

    *amounts, total = usd_text(*(item.usd for item in bill.items), bill.total_usd)
    batch = ", batch" if found.batch else ""
    lines = [f"{found.model} ({found.provider}{batch})"]
    for item, amount in zip(bill.items, amounts, strict=True):
        label = item.name.replace("_", " ")
        what = f"{item.tokens:>13,} x ${item.usd_per_mtok.normalize():f}/Mtok" if item.name != "request" else ""
        lines.append(f"  {label:<14} {what:<32} {amount:>14}")
    lines.append(f"  {'total':<14} {' + '.join(amounts)} = ${total}")
    above = found.tier(counts.input_tokens)
    if above is not None:
        lines.append(f"  more than {above:,} input tokens: the upper price holds for the whole request")
    return [*lines, f"price: {found.source.text}"]


def _machine(
    given: dict[str, Decimal], seconds: Decimal, counts: "TokenCounts", hosted_usd: Decimal | None
) -> tuple[dict[str, Any], list[str]]:
    """This machine's side: (document, lines)."""
    from farthing.economics.cost import HostCost, break_even_utilisation
    from farthing.economics.prices import usd_text

    host = HostCost(**given)
    tokens = counts.input_tokens + counts.output_tokens
    usd, energy = host.usd(seconds), host.energy_usd(seconds)
    own: dict[str, Any] = {
        "usd": usd_text(usd)[0],
        "usd_per_mtok": usd_text(host.usd_per_mtok(tokens, seconds))[0] if tokens else None,
        "energy_usd": usd_text(energy)[0] if energy is not None else None,
        "seconds": seconds,
        "usd_per_hour": host.usd_per_hour,
        "utilisation": host.utilisation,
        "source": {"text": f"${host.usd_per_hour}/h: {host.source}"},
    }
    per_mtok = f" = ${own['usd_per_mtok']}/Mtok" if tokens else ""
    lines = [
        f"this machine, {seconds} s at {host.utilisation.normalize():%} utilisation",
        f"  full cost      ${own['usd']}{per_mtok}",
    ]
    if energy is not None:
        lines.append(f"  energy alone   ${own['energy_usd']} ({host.watts} W at ${host.usd_per_kwh}/kWh)")
    if hosted_usd is not None:
        share = break_even_utilisation(host, seconds, hosted_usd)
        own["break_even_utilisation"] = None if share is None else float(share)
        lines.append(f"  break-even     {_share_text(share)}")
    return own, [*lines, f"price: {own['source']['text']}"]


def _share_text(share: Decimal | None) -> str:
    if share is None:
        return "never: the hosted tokens are free"
    if share > 1:
        return f"never: fully used, it is still {share:.2f} times as dear as the hosted model"
    return f"at {share:.1%} utilisation it costs what the hosted model does"

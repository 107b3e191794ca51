"""An import's findings in the terminal and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.report.bill_elsewhere import Comparison, ModelUse
from farthing.report.bill_import import Imported
from farthing.report.bill_json import amount
from farthing.report.bill_words import exact, money, share, shown

__all__ = ["import_json", "print_import"]

NAMES = {"openai": "OpenAI's usage export", "litellm": "LiteLLM's spend logs"}
MAX_LINES = 20


def import_json(told: Imported, found: Comparison) -> dict[str, Any]:
    return {
        "source": told.source,
        "rows": told.num_rows,
        "rows_empty": told.num_empty,
        "rows_bad": told.num_bad,
        "bad": told.bad,
        "first_day": found.first_day or None,
        "last_day": found.last_day or None,
        "is_aggregated": found.is_aggregated,
        "total": _use(found.total),
        "models": [{"name": name, **_use(use)} for name, use in _by_cost(found)],
        "elsewhere": [
            {
                "name": target.name,
                "source": target.source,
                **amount("cost", target.cost_pico),
                "cost_with_cache_pico": target.with_cache_pico,
                "cost_with_cache_usd": None if target.with_cache_pico is None else exact(target.with_cache_pico),
            }
            for target in found.targets
        ],
        "notes": _notes(told, found),
    }


def _use(use: ModelUse) -> dict[str, Any]:
    return {
        **amount("cost", use.cost_pico),
        **amount("spend", use.spend_pico),
        **amount("cost_of_rows_with_spend", use.priced_pico),
        **amount("spend_of_priced_rows", use.spend_of_priced_pico),
        "requests": use.num_requests,
        "rows_unpriced": use.num_unpriced,
        "rows_with_spend": use.num_with_spend,
        "requests_cache_hit": use.num_hits,
        "input_tokens": use.input_tokens,
        "cache_read_tokens": use.cache_read_tokens,
        "cache_write_tokens": use.cache_write_tokens,
        "output_tokens": use.output_tokens,
    }


def _by_cost(found: Comparison) -> list[tuple[str, ModelUse]]:
    return sorted(found.models.items(), key=lambda pair: (-pair[1].cost_pico, pair[0]))


def print_import(told: Imported, found: Comparison, console: Console) -> None:
    console.width = max(console.width, 160)
    total, ordered = found.total, _by_cost(found)
    days = f", {found.first_day} to {found.last_day}" if found.first_day else ""
    console.print(f"{NAMES[told.source]}: {told.num_rows:,} rows, {total.num_requests:,} requests{days}")
    has_spend = total.num_with_spend > 0
    table = _table(
        "model", "requests", "input", "cached", "output", "by our prices", *(["in the file"] if has_spend else [])
    )
    for name, use in [*ordered[:MAX_LINES], ("all", total)]:
        cells = [shown(name, 40), f"{use.num_requests:,}", f"{use.input_tokens:,}"]
        cells += [share(use.cache_read_tokens, use.input_tokens), f"{use.output_tokens:,}", _priced(use)]
        table.add_row(*cells, *([money(use.spend_pico)] if has_spend else []))
    console.print(table)
    if len(ordered) > MAX_LINES:
        console.print(f"and {len(ordered) - MAX_LINES:,} more models (all of them: --json)")
    console.print()
    paid = total.spend_pico if has_spend else total.cost_pico
    table = _table("the same traffic at", "cost", "with caching", "of what was paid", "price")
    for target in found.targets:
        cached = "price not known" if target.with_cache_pico is None else money(target.with_cache_pico)
        best = target.cost_pico if target.with_cache_pico is None else target.with_cache_pico
        table.add_row(shown(target.name), money(target.cost_pico), cached, share(best, paid), target.source)
    console.print(table)
    for note in _notes(told, found):
        console.print(f"Note: {note}")


def _priced(use: ModelUse) -> str:
    if use.num_unpriced and not use.cost_pico:
        return "not known"
    return money(use.cost_pico) + (f" +{use.num_unpriced:,} unpriced rows" if use.num_unpriced else "")


def _notes(told: Imported, found: Comparison) -> list[str]:
    total = found.total
    notes = sorted(told.notes)
    if found.is_aggregated:
        notes.append("rows add up many requests, whose sizes are not known: priced at the lowest tier")
    if total.num_with_spend:
        less = total.spend_of_priced_pico - total.priced_pico
        said = f"for rows priced in both, the file says {money(total.spend_of_priced_pico)}"
        said += f", our prices {money(total.priced_pico)}"
        notes.append(f"{said}: {money(abs(less))} {'more' if less > 0 else 'less'} in the file" if less else said)
    if total.num_unpriced:
        notes.append(f"{total.num_unpriced:,} rows have models without a known price; they are in no cost of ours")
    if total.num_hits:
        notes.append(
            f"{total.num_hits:,} requests came from the gateway's cache: free there, counted in full elsewhere"
        )
    if told.num_empty:
        notes.append(f"{told.num_empty:,} rows say that nobody asked anything")
    if told.num_bad:
        notes.append(f"{told.num_bad:,} rows could not be read and are in no sum; each is named on stderr")
    notes.append("token counts are the file's; another model's tokenizer counts otherwise")
    return notes


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name == "price" else "right", no_wrap=True)
    return table

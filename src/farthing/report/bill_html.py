"""The bill as one self-contained HTML page: inline SVG, no script, nothing from elsewhere.

The page forbids itself anything but its own style sheet, which it names by hash; names that callers chose are escaped.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

from farthing.report.bill import Bill
from farthing.report.bill_charts import MAX_DAYS, day_chart, share_chart, waterfall_chart
from farthing.report.bill_learned_shown import learned_html
from farthing.report.bill_routes import lot_lines, num_given
from farthing.report.bill_sketch import MAX_ERROR, Sketch
from farthing.report.bill_sums import Sums
from farthing.report.bill_words import exact, forecast_text, money, notes, share, shown

__all__ = ["to_html"]

MAX_LINES = 50

STYLE = """
:root { color-scheme: light dark; --ink: #1c2328; --paper: #fdfcf9; --soft: #5d6970; --line: #d9d6cd;
  --total: #51687a; --saving: #2f8f5b; --dearer: #c2571a; --s0: #2d6a9f; --s1: #d08a1d; --s2: #3f8f6b; --s3: #a34a6e;
  --s4: #6a5fb0; --s5: #8a6d3b; --s6: #8b9499; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6df; --paper: #16191c; --soft: #a3adb3; --line: #3a4147;
  --total: #8ba6ba; --saving: #5cc48b; --dearer: #f0925a; --s0: #6fb1e6; --s1: #f0b95a; --s2: #6fcfa3; --s3: #e08bb0;
  --s4: #a79df0; --s5: #d0b078; --s6: #9aa4aa; } }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; }
  .scroll { overflow: visible; } figure, tr { break-inside: avoid; } * { print-color-adjust: exact; } }
* { box-sizing: border-box; }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.soft, figcaption { color: var(--soft); } figure { margin: 1.2rem 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; padding: 0; }
.cards li { list-style: none; border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; min-width: 36rem; height: auto; }
svg text { fill: var(--ink); font: 14px system-ui, sans-serif; } svg .tick { fill: var(--soft); font-size: 12px; }
svg line { stroke: var(--line); } .total { fill: var(--total); } .saving { fill: var(--saving); }
.dearer { fill: var(--dearer); } .coming { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; }
.s0 { fill: var(--s0); background: var(--s0); } .s1 { fill: var(--s1); background: var(--s1); }
.s2 { fill: var(--s2); background: var(--s2); } .s3 { fill: var(--s3); background: var(--s3); }
.s4 { fill: var(--s4); background: var(--s4); } .s5 { fill: var(--s5); background: var(--s5); }
.s6 { fill: var(--s6); background: var(--s6); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; list-style: none; font-size: .9rem; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; print-color-adjust: exact; }
.scroll { overflow-x: auto; max-width: 100%; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: min(17rem, 40vw);
  max-width: 24rem; }
.notes { border-left: 4px solid var(--dearer); padding: .2rem .8rem; } .notes ul { padding-left: 1.1rem; }
"""


def to_html(bill: Bill, dimensions: Sequence[str], budgets: Sequence[Mapping[str, Any]] = ()) -> str:
    """The whole page. It stands alone: it can be opened from disk with no network."""
    digest = b64encode(sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"farthing bill: {bill.period.since:%Y-%m-%d} to {bill.period.until:%Y-%m-%d}"
    return "\n".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
            *_body(bill, dimensions, budgets),
            "</main>\n</body>\n</html>\n",
        )
    )


def _body(bill: Bill, dimensions: Sequence[str], budgets: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    yield f'<h1>What it cost, and what it saved</h1>\n<p class="soft">{escape(bill.period.text)}</p>'
    yield _cards(bill)
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(bill))
    if said:
        yield f'<section class="notes" aria-label="What these figures leave out"><ul>{said}</ul></section>'
    yield f"<h2>Spend per day</h2><figure>{day_chart(bill)}"
    said = escape(forecast_text(bill.forecast))
    days = f"UTC days, at most the last {MAX_DAYS}. Outlined: days to come"
    yield f"<figcaption>{days}. Forecast: {said}.</figcaption></figure>"
    yield f"<h2>From the baseline to what was paid</h2><figure>{waterfall_chart(bill)}"
    yield (
        "<figcaption>Baseline: every input token at the full price of the baseline’s model. Grey bars are totals, green"
        " ones what a lever takes off, orange ones what was dearer; in this order.</figcaption></figure>"
    )
    if bill.learned is not None and bill.learned.hours:
        yield learned_html(bill.learned)
    for dimension in ("model", "key"):
        yield f"<h2>Spend by {dimension}</h2><figure>{share_chart(bill, dimension)}</figure>"
    yield f"<h2>Tokens</h2>{_classes(bill.total)}"
    for dimension in dimensions:
        if dimension in bill.groups:
            yield f"<h2>By {escape(dimension.replace('_', ' '))}</h2>{_groups(bill, dimension)}"
    if budgets:
        cells = [[shown(str(value)) for value in budget.values()] for budget in budgets]
        yield f"<h2>Budgets</h2>{_grid([name.replace('_', ' ') for name in budgets[0]], cells)}"


def _cards(bill: Bill) -> str:
    total = bill.total
    unpriced = f"plus {total.num_unpriced:,} rows without a price" if total.num_unpriced else "every row has a price"
    saved = f"{share(total.saving_pico, total.baseline_pico)} of the baseline {money(total.baseline_pico)}"
    cards = (
        ("Spent", money(total.cost_pico), f"${exact(total.cost_pico)}, {unpriced}"),
        ("Saved", money(total.saving_pico), saved),
        ("Requests", f"{total.num_requests:,}", f"in {total.num_rows:,} attempts, {total.num_hits:,} from the cache"),
        ("A request, median", *_percentile_card(bill.request_cost, money)),
        ("First token, median", *_percentile_card(bill.first_token, lambda us: f"{us / 1000:,.0f} ms")),
    )
    items = (
        f'<li>{name} <b>{escape(value)}</b> <span class="soft">{escape(text)}</span></li>'
        for name, value, text in cards
    )
    return f'<ul class="cards">{"".join(items)}</ul>'


def _percentile_card(sketch: Sketch, write: Callable[[int], str]) -> tuple[str, str]:
    p50, p95 = sketch.at(0.5), sketch.at(0.95)
    return (
        ("–", "none") if p50 is None or p95 is None else (write(p50), f"p95 {write(p95)}; each within {MAX_ERROR:.0%}")
    )


def _classes(total: Sums) -> str:
    plain = total.input_tokens - total.cache_read_tokens - total.cache_write_tokens
    rows = (
        ("input", f"{plain:,}", total.input_pico),
        ("input read from a cache", f"{total.cache_read_tokens:,}", total.cache_read_pico),
        ("input written to a cache", f"{total.cache_write_tokens:,}", total.cache_write_pico),
        ("output", f"{total.output_tokens:,}", total.output_pico),
        ("per request", "", total.request_pico),
    )
    cells = [(name, num, money(pico), share(pico, total.cost_pico)) for name, num, pico in rows]
    return _grid(("class", "tokens", "cost", "share"), cells)


def _groups(bill: Bill, dimension: str) -> str:
    found = bill.groups[dimension].by_cost()
    if dimension == "day":
        found.sort(key=lambda pair: pair[0], reverse=True)
    head = [
        dimension.replace("_", " "),
        "cost",
        "baseline",
        "saved",
        "answers" if dimension == "route" else "requests",
        "input",
        "cached",
        "output",
        "unpriced",
    ]
    cells = [
        [
            shown(bill.label(dimension, name), 120),
            "not known" if sums.num_unpriced == sums.num_rows else money(sums.cost_pico),
            money(sums.baseline_pico),
            money(sums.saving_pico),
            f"{num_given(sums) if dimension == 'route' else sums.num_requests:,}",
            f"{sums.input_tokens:,}",
            share(sums.cache_read_tokens, sums.input_tokens),
            f"{sums.output_tokens:,}",
            f"{sums.num_unpriced:,}" if sums.num_unpriced else "",
        ]
        for name, sums in found[:MAX_LINES]
    ]
    more = f"<p>and {len(found) - MAX_LINES:,} more.</p>" if len(found) > MAX_LINES else ""
    several = '<p class="soft">A row with several tags counts under each.</p>' if dimension == "tag" else ""
    lots = lot_lines(bill.lots) if dimension == "route" else []
    beside = "".join(f'<p class="soft">{escape(line)}</p>' for line in lots)
    return _grid(head, cells) + more + several + beside


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "<tr>" + "".join(f"<{tag}{scope}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table></div>"
    )

"""How a comparison reads, the same in the terminal and on the page."""

from collections.abc import Sequence

from farthing.report.compare import Against, Comparison, ModelResult, Verdict
from farthing.report.compare_stats import POWER
from farthing.report.words import usd

__all__ = ["HEAD", "PAIRED_HEAD", "cells", "headline", "paired_cells", "remarks"]

HEAD = ("model", "accuracy", "95 %", "$/1,000", "p50", "p95", "in", "cached", "out", "errors", "rows", "front")
PAIRED_HEAD = ("against the best", "only best right", "only this right", "lead of the best", "95 %", "p", "verdict")
UNKNOWN = "unknown"


def cells(model: ModelResult) -> tuple[str, ...]:
    low, high = model.interval
    return (
        model.name,
        f"{model.accuracy:.1%}",
        f"{low:.1%}–{high:.1%}",
        UNKNOWN if model.usd_per_1000 is None else usd(model.usd_per_1000),
        _seconds(model.p50_us),
        _seconds(model.p95_us),
        *(_mean(value) for value in (model.input_tokens, model.cache_read_tokens, model.output_tokens)),
        f"{model.num_errors:,}",
        f"{model.num_rows:,}",
        "●" if model.is_on_front else "",
    )


def paired_cells(one: Against) -> tuple[str, ...]:
    low, high = one.lead_interval
    return (
        one.name,
        f"{one.only_best:,}",
        f"{one.only_this:,}",
        f"{one.lead * 100:+.1f} points",
        f"{low * 100:+.1f} to {high * 100:+.1f}",
        f"{one.p_value:.2g}" if one.p_value >= 1e-4 else "<0.0001",
        "worse" if one.is_worse else _undecided(one) if one.rows_needed is not None else "not behind",
    )


def headline(found: Comparison) -> str:
    """One sentence: which model to take, and how sure that is."""
    verdict = found.verdict
    if verdict is None:
        return "No row has an answer of every model, so nothing can be compared."
    best = _named(found, verdict.best)
    if len(found.models) == 1:
        return f"{verdict.best}: {best.accuracy:.1%} right. One model alone is compared with nothing."
    if verdict.cheapest is None:
        return f"The best is {verdict.best}; no model that is not significantly worse has a known price."
    if verdict.cheapest == verdict.best:
        return f"Take {verdict.best}: the best, and nothing cheaper keeps up with it ({_test(verdict)})."
    chosen = verdict.of(verdict.cheapest)
    assert chosen is not None
    saved = _saved(found, verdict)
    low, high = chosen.lead_interval
    if chosen.rows_needed is None:
        return (
            f"Take {chosen.name}: not behind the best, {verdict.best}{saved} ({_test(verdict)}; the best's lead is "
            f"{low * 100:+.1f} to {high * 100:+.1f} points with 95 % confidence)."
        )
    return (
        f"{chosen.name} is the cheapest that is not significantly worse than the best, {verdict.best}{saved} "
        f"({_test(verdict)}), but undecided: the best leads by {chosen.lead * 100:.1f} points ({low * 100:+.1f} to "
        f"{high * 100:+.1f} with 95 % confidence), and about {chosen.rows_needed:,} rows would tell such a lead "
        f"(with a chance of {POWER:.0%})."
    )


def remarks(found: Comparison) -> Sequence[str]:
    notes = list(found.notes)
    if found.verdict is not None and found.verdict.num_rows < found.num_rows:
        notes.append(
            f"compared in pairs on the {found.verdict.num_rows:,} of {found.num_rows:,} rows that all answered"
        )
    for model in found.models:
        if model.stopped is not None:
            notes.append(f"{model.name} was given up and is in no verdict: {model.stopped}")
        elif model.num_errors:
            notes.append(f"{model.name}: {model.num_errors:,} errors count as wrong answers; a second run asks again")
        if model.num_rows and model.usd_per_1000 is None and model.stopped is None:
            notes.append(f"{model.name}: its price is not known, so it is not ranked; write it into --prices")
    return notes


def _test(verdict: Verdict) -> str:
    return f"exact McNemar test on {verdict.num_rows:,} rows, α = {verdict.alpha:g}, one-sided"


def _saved(found: Comparison, verdict: Verdict) -> str:
    assert verdict.cheapest is not None
    best, this = _named(found, verdict.best).usd_per_1000, _named(found, verdict.cheapest).usd_per_1000
    if best is None or this is None:
        return ""
    return f", and {best / this:.1f}× cheaper" if this else ", and free"


def _undecided(one: Against) -> str:
    return f"undecided, {one.rows_needed:,} rows would tell"


def _named(found: Comparison, name: str) -> ModelResult:
    return next(model for model in found.models if model.name == name)


def _seconds(us: int | None) -> str:
    if us is None:
        return "–"
    return f"{us / 1000:,.0f} ms" if us < 10_000_000 else f"{us / 1e6:,.1f} s"


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"

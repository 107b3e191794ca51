"""The bill's laws: no pico-dollar is lost or found, whatever the rows are, and the levers explain the whole saving."""

import csv
import io
from decimal import Decimal
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from farthing.economics.charge import pico
from farthing.ledger.row import Row
from farthing.report.bill import collect
from farthing.report.bill_sketch import MAX_ERROR, Sketch
from farthing.report.bill_sums import is_failed
from farthing.report.focus import export
from tests.report.ledger_rows import MONTH, row

DAY_US = 86_400_000_000
amounts = st.integers(0, 10**15)


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    return [draw(one_row(num)) for num in range(draw(st.integers(0, 12)))]


@st.composite
def one_row(draw: st.DrawFn, num: int) -> Row:
    total = draw(st.integers(0, 10**6))
    read = draw(st.integers(0, total))
    is_priced = draw(st.booleans()) or draw(st.booleans())
    parts = {f"{name}_pico": draw(amounts) for name in ("input", "cache_read", "cache_write", "output", "request")}
    cost = sum(parts.values())
    if not is_priced:
        parts = dict.fromkeys(parts)
    return row(
        num,
        request_id=f"q{draw(st.integers(0, 5))}",
        attempt=draw(st.integers(0, 2)),
        started_us=MONTH.since_us + draw(st.integers(0, 20)) * DAY_US,
        status=draw(st.sampled_from(["ok", "error", "aborted", "killed"])),
        served_model=draw(st.sampled_from(["gpt-5-nano", "large", "=cmd", 'naïve, "x"'])),
        baseline_model=draw(st.sampled_from([None, "gpt-5-nano", "large"])),
        usage_source=draw(st.sampled_from(["provider", "engine", "estimated", "unavailable"])),
        input_tokens=draw(st.none() | st.just(total)),
        cache_read_tokens=read,
        cache_write_tokens=draw(st.integers(0, total - read)),
        price_status=draw(st.sampled_from(["priced", "local", "free"])) if is_priced else "unpriced",
        tags=tuple(draw(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3))),
        key_id=draw(st.sampled_from([None, "k1", "k2"])),
        cache=draw(st.sampled_from([None, None, "hit"])),
        cost_pico=cost if is_priced else None,
        baseline_pico=draw(st.none() | amounts),
        **parts,
    )


@given(rows())
@settings(max_examples=200, deadline=None)
def test_levers_add_up_to_baseline_less_cost(found: list[Row]) -> None:
    bill = collect(found, MONTH)
    inside = [r for r in found if r.cost_pico is not None and (is_failed(r) or r.baseline_pico is not None)]
    baseline = sum(r.baseline_pico or 0 for r in inside if not is_failed(r))
    cost = sum(r.cost_pico or 0 for r in inside)
    assert sum(bill.levers.values()) == baseline - cost == bill.total.saving_pico
    assert bill.levers["failed_attempts"] == -sum(r.cost_pico or 0 for r in inside if is_failed(r))


@given(rows())
@settings(max_examples=200, deadline=None)
def test_sums_are_the_ledgers(found: list[Row]) -> None:
    bill = collect(found, MONTH, ["key", "day", "tag", "status"])
    cost = sum(r.cost_pico or 0 for r in found)
    total = bill.total
    assert total.cost_pico == cost
    assert total.cost_pico == (
        total.input_pico + total.cache_read_pico + total.cache_write_pico + total.output_pico + total.request_pico
    )
    for dimension in ("model", "key", "day", "status"):
        assert sum(sums.cost_pico for _, sums in bill.groups[dimension].by_cost()) == cost
        assert sum(sums.num_rows for _, sums in bill.groups[dimension].by_cost()) == len(found)
    assert sum(bill.days.values()) == cost
    assert total.num_unpriced == sum(r.cost_pico is None for r in found)
    every = sum((r.baseline_pico or 0) for r in found if r.cost_pico is not None or is_failed(r))
    assert total.baseline_pico + total.failed_baseline_pico == every


@given(rows())
@settings(max_examples=150, deadline=None)
def test_the_export_read_back_is_the_ledger(found: list[Row]) -> None:
    out = io.StringIO()
    told = export(found, out, {})
    read = list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))
    for column in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert not any("e" in line[column].lower() for line in read)
        assert sum(pico(Decimal(line[column])) for line in read) == sum(r.cost_pico or 0 for r in found)
    by_attempt: dict[str, int] = {}
    for line in read:
        name = line["x_AttemptId"]
        by_attempt[name] = by_attempt.get(name, 0) + pico(Decimal(line["BilledCost"]))
    assert by_attempt == {r.id: r.cost_pico for r in found if r.cost_pico is not None}
    baselines = sum(pico(Decimal(line["x_BaselineCost"])) for line in read if line["x_BaselineCost"])
    assert baselines == sum(r.baseline_pico or 0 for r in found if r.cost_pico is not None)
    assert told.num_unpriced == sum(r.cost_pico is None for r in found)


@given(st.lists(st.integers(0, 10**16), min_size=1), st.floats(0.01, 1))
@settings(max_examples=200, deadline=None)
def test_a_percentile_is_within_its_error(values: list[int], part: float) -> None:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    exact = sorted(values)[max(1, ceil(part * len(values))) - 1]
    found = sketch.at(part)
    assert found is not None
    assert abs(found - exact) <= exact * (MAX_ERROR + 1e-9) + 0.5

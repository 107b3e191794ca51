"""What a learned model's request cost over time: parts between promotions, in terminal, page and JSON."""

from datetime import UTC, datetime
from io import StringIO

from rich.console import Console

from farthing.ledger.row import Row
from farthing.report.bill import collect
from farthing.report.bill_html import to_html
from farthing.report.bill_json import to_json
from farthing.report.bill_learned import Learned
from farthing.report.bill_period import moment_us
from farthing.report.bill_terminal import print_bill
from farthing.report.learn_history import Event, Figures
from tests.report.ledger_rows import MONTH, row

LARGE, SMALL = 90_000_000, 1_000_000
PROMOTED_US = moment_us(datetime(2026, 11, 12, 6, tzinfo=UTC))
BACK_US = moment_us(datetime(2026, 11, 20, 18, tzinfo=UTC))
HISTORY = (
    Event(1, PROMOTED_US, "promoted", "nano", "0001", None, Figures(LARGE, 1.0, 1.0), Figures(30_000_000, 0.98, 0.3),
          -0.02, -0.03, -0.01, 400),
    Event(2, PROMOTED_US + 1, "kept", "nano", "0001", "0001"),
    Event(3, BACK_US, "rolled back", "nano", "0000", "0001"),
)  # fmt: skip


def day_rows() -> list[Row]:
    """Day 10: large alone; day 15: one kept, one sent up; day 22: sent up again; another model; a cache hit."""
    at = [moment_us(datetime(2026, 11, day, 9, tzinfo=UTC)) for day in (10, 15, 22)]
    return [
        row(1, started_us=at[0], cost_pico=LARGE),
        row(2, started_us=at[1], cost_pico=SMALL),
        row(3, started_us=at[1], cost_pico=SMALL, status="discarded"),
        row(4, started_us=at[1], request_id="q3", attempt=1, cost_pico=LARGE),
        row(5, started_us=at[1], cost_pico=7, asked_model="other"),
        row(6, started_us=at[1], cost_pico=0, cache="hit"),
        row(7, started_us=at[2], cost_pico=LARGE),
    ]


def bill_of(history: tuple[Event, ...] = HISTORY) -> "object":
    return collect(day_rows(), MONTH, [], learned=Learned.of("nano", history, MONTH))


def test_the_parts_between_promotions() -> None:
    found = to_json(bill_of())["learned"]  # type: ignore[arg-type]
    parts = [(part["version"], part["requests"], part["cost_per_request_pico"]) for part in found["parts"]]
    assert parts == [(None, 1, LARGE), ("0001", 2, (2 * SMALL + LARGE) // 2), ("0000", 1, LARGE)]
    assert found["parts"][1]["since"] == "2026-11-12T06:00:00+00:00"
    assert [part["began"] for part in found["parts"]] == [None, "promoted", "rolled back"]
    assert [(day["day"], day["requests"]) for day in found["days"]] == [
        ("2026-11-10", 1), ("2026-11-15", 2), ("2026-11-22", 1)
    ]  # fmt: skip
    assert found["parts"][0]["cost_per_request_usd"] == "0.00009"


def test_a_version_from_before_the_period() -> None:
    early = Event(1, moment_us(datetime(2026, 10, 1, tzinfo=UTC)), "promoted", "nano", "0001", None)
    found = to_json(bill_of((early,)))["learned"]  # type: ignore[arg-type]
    assert [(part["version"], part["requests"]) for part in found["parts"]] == [("0001", 4)]


def test_people_see_it_in_the_terminal_and_on_the_page() -> None:
    console = Console(file=StringIO(), width=200)
    print_bill(bill_of(), ["model"], (), console)  # type: ignore[arg-type]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Learned model nano" in text
    assert "version 0001, promoted" in text
    assert "51.1%" in text
    assert "-2.0 points (-3.0 to -1.0, 400 rows)" in text
    page = to_html(bill_of(), ["model"], ())  # type: ignore[arg-type]
    assert page.count("2026-11-12 06:00: version 0001 promoted") == 1
    assert 'class="saving"' in page
    assert "2026-11-15: $0.0000460 a request, 2 requests" in page


def test_a_model_that_nobody_asked_is_not_shown() -> None:
    bill = collect(day_rows(), MONTH, [], learned=Learned.of("nobody", HISTORY, MONTH))
    assert "Learned model" not in to_html(bill, ["model"], ())
    assert to_json(collect(day_rows(), MONTH, []))["learned"] is None

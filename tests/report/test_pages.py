"""The report as JSON, as a page and in the terminal: the same numbers, nothing fetched, nothing unescaped."""

import io
import itertools
import json
import re
from decimal import Decimal
from html.parser import HTMLParser

import pytest
from rich.console import Console

from farthing.report.document import to_json
from farthing.report.html import to_html
from farthing.report.terminal import BAR_CELLS, bar, print_report
from farthing.report.words import rate, times, usd
from tests.report.sample import LEVERS, report


class Page(HTMLParser):
    """Collects tags with their attributes, and sees that every tag is closed."""

    VOID = ("meta", "line", "br")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(num_rows: int = len(LEVERS)) -> Page:
    page = Page()
    page.feed(to_html(report(num_rows)))
    page.close()
    assert page.open == []
    return page


def test_the_page_fetches_nothing() -> None:
    source = to_html(report())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    for tag, attributes in parsed().tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "use")
        assert not {"src", "href", "xlink:href"} & attributes.keys()


def test_bars_of_the_chart_are_the_numbers() -> None:
    levels = [float(row.usd_per_mtok.blended) for row in report().rows]
    rects = [attributes for tag, attributes in parsed().tags if tag == "rect"]
    whole, zoom = rects[: len(levels) + 1], rects[len(levels) + 1 :]  # the first row dwarfs the rest: two charts
    assert len(zoom) == len(levels)
    for chart, values in ((whole, levels), (zoom, levels[1:])):
        steps = [(0.0, values[0]), *itertools.pairwise(values), (0.0, values[-1])]
        scale = float(chart[0]["width"] or 0) / values[0]
        origin = float(chart[0]["x"] or 0)
        for rect, (start, end) in zip(chart, steps, strict=True):
            assert float(rect["data-start"] or 0) == pytest.approx(start)
            assert float(rect["data-end"] or 0) == pytest.approx(end)
            assert float(rect["width"] or 0) == pytest.approx(max(abs(end - start) * scale, 1), abs=0.02)
            assert float(rect["x"] or 0) == pytest.approx(origin + min(start, end) * scale, abs=0.02)
    assert "saving" in (whole[1]["class"] or "")
    assert "dearer" in (whole[3]["class"] or "")


def test_the_page_is_readable_without_eyes_and_escapes_what_it_quotes() -> None:
    page = parsed()
    for attributes in (attributes for tag, attributes in page.tags if tag == "svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"]
    assert LEVERS[0][0] in page.text
    assert "a note with <tags>" in page.text
    assert not any(tag in ("way", "tags") for tag, _ in page.tags)


def test_a_partial_report_says_so_everywhere() -> None:
    for num_rows in (0, 1, 2):
        part = report(num_rows)
        document = to_json(part)
        assert document["partial"] is True
        assert len(document["rows"]) == num_rows
        assert document["missing"] == [name for name, _, _ in LEVERS[num_rows:]]
        assert any("Partial report" in text for text in parsed(num_rows).text)
        assert "PARTIAL" in printed(num_rows)


def printed(num_rows: int = len(LEVERS)) -> str:
    out = io.StringIO()
    print_report(report(num_rows), Console(file=out, width=80, markup=False, emoji=False, highlight=False))
    return out.getvalue()


def test_json_has_every_field_and_consistent_figures() -> None:
    document = json.loads(json.dumps(to_json(report(watts=Decimal(65))), allow_nan=False))
    assert {"machine", "commit", "command", "usd_per_hour", "reference", "rows", "hosted", "partial"} <= document.keys()
    assert document["usd_per_hour"] == 0.36
    assert document["reference"] == LEVERS[0][0]
    first, second, *_, last = document["rows"]
    assert first["usd_per_mtok"] == {
        "input": pytest.approx(0.36 / 3600 * 400 * 100),
        "output": pytest.approx(0.36 / 3600 * 100 * 1000),
        "blended": pytest.approx(0.36 / 3600 * 500 / 11_000 * 1e6),
    }
    assert (first["factor_previous"], first["factor_first"]) == (1, 1)
    assert second["factor_previous"] == pytest.approx(5)
    assert second["input_tok_s"] == pytest.approx(250)
    assert last["factor_first"] == pytest.approx(500 / 55)
    assert last["quality"] == {
        "kind": "measured", "text": "a text", "tokens": 500, "kl_divergence": 0.0123, "top1_agreement": 0.975,
        "num_different": 3,
    }  # fmt: skip
    assert first["is_scaled"]
    assert not second["is_scaled"]
    assert last["peak_bytes"] == 4 << 28
    assert last["energy_usd_per_mtok"] == pytest.approx(65 / 1000 * 0.15 * 55 / 3600 / 11_000 * 1e6)


def test_the_terminal_has_a_bar_per_row() -> None:
    lines = printed().splitlines()
    bars = [line for line in lines if "█" in line]
    assert len(bars) == len(LEVERS)
    assert "»" in bars[0]  # ten times the rest: cut
    assert "…" not in printed()


def test_bars_are_in_proportion() -> None:
    assert bar(Decimal(1), Decimal(1)) == "█" * BAR_CELLS
    assert bar(Decimal("0.5"), Decimal(1)) == "█" * (BAR_CELLS // 2)
    assert bar(Decimal("0.0001"), Decimal(1)) == "▏"
    assert bar(Decimal(0), Decimal(1)) == ""
    assert bar(Decimal(2), Decimal(1)).endswith("»")


def test_words() -> None:
    assert [usd(Decimal(x)) for x in ("12.3", "0.0765", "0.001234", "1234", "0")] == [
        "$12.30", "$0.0765", "$0.00123", "$1,234.00", "$0.00",
    ]  # fmt: skip
    assert [times(Decimal(x)) for x in ("1.234", "123.4")] == ["1.23×", "123×"]
    assert [rate(x) for x in (None, 1234.5, 9.87)] == ["–", "1,234", "9.9"]

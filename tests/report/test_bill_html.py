"""The bill's page: it stands alone, hostile names stay text, and a real browser shows it at any width."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from farthing.report.bill import Bill, collect
from farthing.report.bill_html import to_html
from tests.report.ledger_rows import MONTH, PLAIN, hit, local, row, unpriced

DAY_US = 86_400_000_000
HOSTILE = [
    '<script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "a'&\x1b]0;t\x07\n",
    "</title></svg><b>",
    "💸" * 90,
]


def sample(num_models: int = 200) -> Bill:
    rows = [row(num, served_model=f"model-{num}-" + "long" * 20, input_pico=10**9 + num) for num in range(num_models)]
    rows += [row(300 + num, started_us=PLAIN.started_us - num * DAY_US) for num in range(10)]
    rows += [row(400 + num, served_model=bad, key_id=bad, tags=(bad,), project=bad) for num, bad in enumerate(HOSTILE)]
    rows += [hit(500), local(501), unpriced(502), row(503, status="error")]
    bill = collect(rows, MONTH, ["key", "project", "tag", "day"])
    bill.key_names = {"k1": "<i>name</i>"}
    return bill


def page(bill: Bill) -> str:
    return to_html(bill, ["model", "key", "project", "tag", "day", "lever"], [{"scope": "<u>", "left_usd": "1"}])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_hostile_names_make_no_element() -> None:
    written = page(sample())
    parser = Tags()
    parser.feed(written)
    assert not parser.tags & {"script", "img", "i", "u", "link", "iframe", "object"}
    assert not {name for name in parser.attributes if name.startswith("on")} | (
        parser.attributes & {"style", "src", "href"}
    )
    assert "\x1b" not in written
    assert "&lt;script&gt;" in written


def test_nothing_comes_from_elsewhere() -> None:
    written = page(sample())
    assert not re.search(r"https?://|url\(|@import", written)
    assert "default-src 'none'" in written
    assert written.count("<style>") == 1


def test_every_chart_says_what_it_shows() -> None:
    written = page(sample())
    assert written.count("<svg") == 4
    ids = re.findall(r'aria-labelledby="([\w-]+) ([\w-]+)"', written)
    assert len(ids) == 4
    for title, text in ids:
        assert f'<title id="{title}">' in written
        assert f'<desc id="{text}">' in written


def test_many_models_are_few_bars_and_the_rest_is_one() -> None:
    written = page(sample())
    assert "(other)" in written
    assert len(written) < 400_000


def test_an_empty_bill_and_one_dearer_than_its_baseline() -> None:
    assert "$0.00" in page(collect([], MONTH))
    dear = page(collect([row(1, baseline_pico=1)], MONTH))
    assert 'class="dearer"' in dear
    assert not re.search(r'(width|height)="-', dear)


@pytest.fixture(scope="module")
def shown_at(tmp_path_factory: pytest.TempPathFactory):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Debian's chromium is not installed: apt-get install chromium")
    path: Path = tmp_path_factory.mktemp("bill") / "bill.html"
    path.write_text(page(sample()), encoding="utf-8")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser, path.as_uri()
        browser.close()


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(shown_at, width: int, scheme: str) -> None:
    browser, uri = shown_at
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(uri)
    assert said == []
    assert asked == [uri]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert "plus 1 rows without a price" in tab.inner_text("body")
    assert tab.locator(".cards b").first.inner_text().startswith("$0.2")
    colours = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colours[0] != colours[1]
    assert tab.evaluate("document.querySelectorAll('.key.s0')[0].getBoundingClientRect().width") > 5
    tab.close()

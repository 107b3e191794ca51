"""The panel of distillation: costs follow from the measured speeds and the machine's price; other files are refused."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.report.distill_panel import distill_html, distill_json, print_distill, read_distill

HOST = HostCost(Decimal("0.36"))  # a ten-thousandth of a dollar a second


def row(name: str, accuracy: float, speed: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "accuracy": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01,
            "requests_per_s": speed, **more}  # fmt: skip


ROWS = [row("teacher, prompted", 0.4, 5.0), row("student <6 layers>", 0.925, 100.0, quality="KL 0.02")]


def written(folder: Path, rows: Any = ROWS, **changes: Any) -> Path:
    path = folder / "distill.json"
    tasks = {"banking77": {"num_test": 3080, "rows": rows}}
    path.write_text(json.dumps({"machine": "a machine", "commit": "abc", "tasks": tasks, **changes}))
    return path


def test_figures(tmp_path: Path) -> None:
    found = distill_json(read_distill(written(tmp_path)), HOST)["tasks"]["banking77"]
    prompted, student = found["rows"]
    assert prompted["usd_per_million_requests"] == pytest.approx(20.0)
    assert student["usd_per_million_requests"] == pytest.approx(1.0)
    assert student["cheaper"] == pytest.approx(20.0)
    assert (found["num_test"], student["accuracy"]) == (3080, 0.925)


def test_shown_with_its_quality(tmp_path: Path) -> None:
    panel = read_distill(written(tmp_path))
    console = Console(width=200)
    with console.capture() as shown:
        print_distill(panel, HOST, console)
    text, page = shown.get(), distill_html(panel, HOST)
    for words in ("20.00×", "$20.00", "$1.00", "92.5 % (91.5–93.5)", "KL 0.02", "banking77, 3,080 test rows"):
        assert words in page
        assert words in text
    assert "student &lt;6 layers&gt;" in page


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("a", 0.5, 0.0)], "is no result"),
        ([row("a", 1.5, 1.0)], "is no result"),
        ([row("a", float("nan"), 1.0)], "is no result"),
        ([{"name": "a"}], "is no result"),
        ([], "has no rows"),
        (None, "is no result"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, rows: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_distill(written(tmp_path, rows))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_distill(tmp_path / "none")

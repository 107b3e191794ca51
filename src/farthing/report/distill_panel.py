"""Distillation in the waterfall's second panel: what a request costs the prompted model, the tuned one, its student and
their cascade, each with its accuracy, as benchmarks/distill.py measured them.
"""

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.report.words import rate, times, usd

__all__ = ["DistillPanel", "DistillRow", "DistillTask", "distill_html", "distill_json", "print_distill", "read_distill"]

TITLE = "Distillation: the same task by a smaller model"
HEAD = ("model", "$ per million requests", "cheaper", "requests/s", "accuracy (95 %)", "quality")


@dataclass(frozen=True)
class DistillRow:
    name: str
    accuracy: float  # 0 to 1, on the task's own test rows
    low: float  # 95 %
    high: float
    requests_per_s: float
    quality: str  # more of it, in words


@dataclass(frozen=True)
class DistillTask:
    """The first row is what the others are compared with."""

    name: str
    rows: tuple[DistillRow, ...]
    num_test: int


@dataclass(frozen=True)
class DistillPanel:
    tasks: tuple[DistillTask, ...]
    machine: str
    commit: str

    @property
    def sentence(self) -> str:
        return (
            "Another task than the workload above, so outside of its sum. Accuracy on the task's own test rows. "
            f"Measured on {self.machine}, commit {self.commit} (benchmarks/distill.py)."
        )


def read_distill(path: Path) -> DistillPanel:
    """What benchmarks/distill.py wrote. Raises InvalidRequest where it is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        tasks = tuple(_task(name, one) for name, one in found["tasks"].items())
        panel = DistillPanel(tasks, str(found["machine"]), str(found["commit"]))
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidRequest(
            f"{path} is no result of benchmarks/distill.py; that writes results/distill.json"
        ) from None
    if not any(task.rows for task in tasks):
        raise InvalidRequest(f"{path} has no rows; benchmarks/distill.py measures them")
    return panel


def _task(name: str, found: dict[str, Any]) -> DistillTask:
    return DistillTask(str(name), tuple(_row(one) for one in found["rows"]), int(found["num_test"]))


def _row(found: dict[str, Any]) -> DistillRow:
    accuracy, low, high = (_number(found[name]) for name in ("accuracy", "low", "high"))
    speed = _number(found["requests_per_s"])
    if not speed or max(accuracy, low, high) > 1:
        raise ValueError
    return DistillRow(str(found["name"]), accuracy, low, high, speed, str(found.get("quality") or ""))


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def distill_json(panel: DistillPanel, host: HostCost) -> dict[str, Any]:
    def row(task: DistillTask, one: DistillRow) -> dict[str, Any]:
        cheaper = one.requests_per_s / task.rows[0].requests_per_s
        return {**vars(one), "usd_per_million_requests": float(_cost(one, host)), "cheaper": cheaper}

    tasks = {
        task.name: {"num_test": task.num_test, "rows": [row(task, one) for one in task.rows]} for task in panel.tasks
    }
    return {"tasks": tasks, "machine": panel.machine, "commit": panel.commit}


def print_distill(panel: DistillPanel, host: HostCost, console: Console) -> None:
    console.print(TITLE)
    for task in panel.tasks:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=_about(task), title_justify="left")
        for number, name in enumerate(HEAD):
            table.add_column(name, justify="left" if number in (0, 5) else "right")
        for row in _rows(task, host):
            table.add_row(*row)
        console.print(table)
    console.print(panel.sentence)


def distill_html(panel: DistillPanel, host: HostCost) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    parts = [f"<h2>{escape(TITLE)}</h2>"]
    for task in panel.tasks:
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(task, host))
        parts.append(
            f'<h3>{escape(_about(task))}</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
    return "".join([*parts, f"<p>{escape(panel.sentence)}</p>"])


def _about(task: DistillTask) -> str:
    return f"{task.name}, {task.num_test:,} test rows"


def _cost(row: DistillRow, host: HostCost) -> Decimal:
    """Of a million requests."""
    return host.usd(1e6 / row.requests_per_s)


def _rows(task: DistillTask, host: HostCost) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for row in task.rows:
        cheaper = Decimal(row.requests_per_s / task.rows[0].requests_per_s)
        share = f"{100 * row.accuracy:.1f} % ({100 * row.low:.1f}–{100 * row.high:.1f})"
        is_first = row is task.rows[0]
        cells = (row.name, usd(_cost(row, host)), "" if is_first else times(cheaper), rate(row.requests_per_s), share)
        found.append((*cells, row.quality))
    return found

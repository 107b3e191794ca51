"""Draws what scaling.py measured: `python benchmarks/scaling_plot.py scaling.json OUT.png`. Needs matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files, no windows
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

COLOURS = ("tab:blue", "tab:orange", "tab:green")
RUN_STYLES = ("-o", "-s", "-^", "-D")
MIB = 2**20


def draw(document: dict[str, Any], path: Path) -> None:
    """Four panels: time and memory against batch (left) and context (right)."""
    figure, panels = plt.subplots(2, 2, figsize=(13, 11), layout="constrained")
    for column, axis in enumerate(("batch", "context")):
        swept = [sweep for sweep in document["sweeps"] if sweep["axis"] == axis]
        time, memory = panels[0][column], panels[1][column]
        for sweep, colour in zip(swept, COLOURS, strict=False):
            _time(time, sweep, colour)
            _memory(memory, sweep, colour)
        unit = "step" if axis == "batch" else "token"
        _label(time, f"Time per {unit} against {axis}", axis, f"ms per {unit}")
        _label(memory, f"Memory against {axis}", axis, "MiB")
    products = f"{document['product']} products, {document['kv']} keys and values, {document['threads']} threads"
    figure.suptitle(f"{document['model']}, {products}\n{document['machine']}, commit {document['commit']}", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _xs(sweep: dict[str, Any]) -> list[int]:
    return [point[sweep["axis"]] for point in sweep["points"]]


def _time(axes: Axes, sweep: dict[str, Any], colour: str) -> None:
    xs, points = _xs(sweep), sweep["points"]
    num_runs = len(points[0]["step_s"])
    for run, style in zip(range(num_runs), RUN_STYLES, strict=False):
        steps = [1e3 * point["step_s"][run] for point in points]
        label = f"{sweep['name']}, run {run + 1}"
        axes.plot(
            xs, steps, style, color=colour, markersize=4, linewidth=1.2, alpha=1 if run == 0 else 0.5, label=label
        )
    limits = [1e3 * min(point["limit_s"]) for point in points]
    axes.plot(xs, limits, ":", color=colour, linewidth=1.5, label=f"{sweep['name']}, the machine's limit")
    slow = [(x, 1e3 * max(p["step_s"])) for x, p in zip(xs, points, strict=True) if x in sweep["cliffs"]]
    if slow:
        axes.plot(*zip(*slow, strict=True), "x", color="red", markersize=12, label="cliff")


def _memory(axes: Axes, sweep: dict[str, Any], colour: str) -> None:
    xs, points = _xs(sweep), sweep["points"]
    for field, style, label in (
        ("peak_bytes", "-o", "most resident memory"),
        ("floor_bytes", ":", "limit: weights, K and V of the tokens"),
        ("kv_bytes", "--", "pages of K and V"),
    ):
        values = [point[field] / MIB if point[field] is not None else float("nan") for point in points]
        axes.plot(xs, values, style, color=colour, markersize=4, linewidth=1.2, label=f"{sweep['name']}, {label}")


def _label(axes: Axes, title: str, axis: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("sequences in the batch" if axis == "batch" else "tokens of context")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    draw(json.loads(Path(source).read_text()), Path(target))

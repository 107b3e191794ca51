"""Draws what ladder.py measured: `python -m benchmarks.ladder_plot ladder.json OUT.png`. Needs matplotlib."""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files, no windows
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

KINDS = (  # label, colour, marker
    ("farthing, no text needed", "tab:blue", "o"),
    ("farthing, calibrated", "tab:green", "o"),
    ("farthing, mixed formats", "tab:olive", "D"),
    ("llama.cpp", "tab:red", "x"),
    ("llama.cpp, imatrix", "tab:orange", "x"),
)
FLOOR = 1e-5  # of KL divergence on a logarithmic axis: what is lossless stands here


def draw(document: dict[str, Any], path: Path) -> None:
    """A row of panels for each model: KL divergence against bits per weight, and against dollars."""
    models = list(dict.fromkeys(rung["model"] for rung in document["rungs"]))
    figure, panels = plt.subplots(len(models), 2, figsize=(15, 6.5 * len(models)), layout="constrained", squeeze=False)
    for row, model in zip(panels, models, strict=True):
        rungs = [rung for rung in document["rungs"] if rung["model"] == model]
        _panel(row[0], rungs, "bits_per_weight", "bits per weight, all tensors")
        _panel(row[1], rungs, "usd_per_mtok", "blended $ per million tokens")
        note = document["notes"].get(model)
        row[0].set_title(model + (f"\n{note}" if note else ""), fontsize=9, loc="left")
    figure.suptitle(f"{document['machine']}, commit {document['commit']}", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def kind_of(rung: dict[str, Any]) -> int:
    if rung["method"].startswith("llama.cpp"):
        return 4 if "imatrix" in rung["method"] else 3
    if rung["format"].startswith("mix"):
        return 2
    return 1 if rung["method"].startswith(("gptq", "importance")) else 0


def _panel(axes: Axes, rungs: list[dict[str, Any]], field: str, label: str) -> None:
    timed = [rung for rung in rungs if rung[field] is not None]
    for kind, (name, colour, marker) in enumerate(KINDS):
        points = [rung for rung in timed if kind_of(rung) == kind]
        if points:
            ys = [max(rung["kl_divergence"], FLOOR) for rung in points]
            axes.plot([rung[field] for rung in points], ys, marker, color=colour, markersize=5, label=name)
    for is_ours, colour in ((True, "tab:green"), (False, "tab:orange")):
        front = pareto([rung for rung in timed if (kind_of(rung) < 3) == is_ours], field)
        axes.plot(
            [r[field] for r in front], [max(r["kl_divergence"], FLOOR) for r in front], "-", color=colour, alpha=0.5
        )
        for rung in front:
            where = (rung[field], max(rung["kl_divergence"], FLOOR))
            axes.annotate(rung["format"], where, fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set(yscale="log", xlabel=label, ylabel="KL divergence from float32, nats per token")
    axes.grid(alpha=0.3)
    if timed:
        axes.legend(fontsize=8)


def pareto(rungs: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """Those that no other of less or as much beats in KL divergence, from the smallest on."""
    front: list[dict[str, Any]] = []
    for rung in sorted(rungs, key=lambda r: (r[field], r["kl_divergence"])):
        if not front or rung["kl_divergence"] < front[-1]["kl_divergence"]:
            front.append(rung)
    return front


if __name__ == "__main__":
    source, target = sys.argv[1:]
    draw(json.loads(Path(source).read_text()), Path(target))

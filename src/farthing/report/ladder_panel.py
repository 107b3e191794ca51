"""The ladder of weight formats, for the waterfall's page: quality against dollars and against size, as
benchmarks/ladder.py measured them. Each dot is a rung; a line joins those that no cheaper one beats.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from farthing.errors import InvalidRequest

__all__ = ["LadderPanel", "PanelRung", "front", "ladder_html", "ladder_json", "read_ladder"]

WIDTH_PX, HEIGHT_PX, LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 900, 380, 70, 150, 12, 40
FLOOR = 1e-5  # of KL divergence: what is lossless stands on it, for there is no 0 on a logarithmic axis
HEAD = ("rung", "bits per weight", "MB", "perplexity", "KL", "top-1", "prefill tok/s", "decode tok/s", "$/Mtok")


@dataclass(frozen=True)
class PanelRung:
    model: str
    format: str
    method: str
    bits_per_weight: float
    num_bytes: int
    perplexity: float
    kl_divergence: float
    top1_agreement: float
    prefill_tok_s: float | None  # None: it was not timed
    decode_tok_s: float | None
    usd_per_mtok: float | None  # blended

    @property
    def is_ours(self) -> bool:
        return not self.method.startswith("llama.cpp")

    @property
    def name(self) -> str:
        return f"{self.format}, {self.method}"


@dataclass(frozen=True)
class LadderPanel:
    rungs: tuple[PanelRung, ...]
    notes: tuple[tuple[str, str], ...]  # model, what must be said of its figures
    text: str  # what quality was measured on
    machine: str
    commit: str

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(rung.model for rung in self.rungs))


def read_ladder(path: Path) -> LadderPanel:
    """What benchmarks/ladder.py wrote. Raises InvalidRequest where it is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rungs = tuple(_rung(one) for one in found["rungs"])
        notes = tuple((str(model), str(note)) for model, note in found["notes"].items())
        panel = LadderPanel(rungs, notes, str(found["text"]), str(found["machine"]), str(found["commit"]))
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidRequest(f"{path} is no result of benchmarks/ladder.py; that writes one with --out") from None
    if not rungs:
        raise InvalidRequest(f"{path} has no rungs; benchmarks/ladder.py measures them")
    return panel


def _rung(found: dict[str, Any]) -> PanelRung:
    numbers = ("bits_per_weight", "perplexity", "kl_divergence", "top1_agreement")
    optional = ("prefill_tok_s", "decode_tok_s", "usd_per_mtok")
    values: dict[str, Any] = {name: _finite(found[name]) for name in numbers}
    values |= {name: None if found[name] is None else _finite(found[name]) for name in optional}
    names = (found["model"], found["format"], found["method"])
    if not all(isinstance(name, str) for name in names):
        raise ValueError
    return PanelRung(*names, num_bytes=int(found["bytes"]), **values)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def front(rungs: Sequence[PanelRung], field: str) -> list[PanelRung]:
    """Those that none of at most their cost (`field`) beats in KL divergence, from the cheapest on."""
    best: list[PanelRung] = []
    for rung in sorted(rungs, key=lambda r: (getattr(r, field), r.kl_divergence)):
        if not best or rung.kl_divergence < best[-1].kl_divergence:
            best.append(rung)
    return best


def ladder_json(panel: LadderPanel) -> dict[str, Any]:
    rungs = [vars(rung) for rung in panel.rungs]
    return {"rungs": rungs, "notes": dict(panel.notes), "machine": panel.machine, "commit": panel.commit}


def ladder_html(panel: LadderPanel) -> str:
    parts = ["<h2>The ladder of weight formats: quality against dollars</h2>"]
    for number, model in enumerate(panel.models):
        rungs = [rung for rung in panel.rungs if rung.model == model]
        parts.append(f"<h3>{escape(model)}</h3>")
        parts += [f'<p class="soft">{escape(note)}</p>' for of, note in panel.notes if of == model]
        timed = [rung for rung in rungs if rung.usd_per_mtok is not None]
        if timed:
            parts.append(_chart(timed, "usd_per_mtok", "blended $ per million tokens", f"ladder-{number}-usd"))
        parts.append(_chart(rungs, "bits_per_weight", "bits per weight, all tensors", f"ladder-{number}-bits"))
        parts.append(_table(rungs))
    said = (
        f"KL divergence from float32 in nats per token, on {panel.text}. Measured on {panel.machine}, {panel.commit}."
    )
    return "".join([*parts, f'<p class="soft">{escape(said)}</p>'])


def _chart(rungs: Sequence[PanelRung], field: str, label: str, name: str) -> str:
    xs = [float(getattr(rung, field)) for rung in rungs]
    ys = [max(rung.kl_divergence, FLOOR) for rung in rungs]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 1e-9)
    most = max(xs) * 1.05 or 1.0
    plot = WIDTH_PX - LEFT_PX - RIGHT_PX, HEIGHT_PX - TOP_PX - BOTTOM_PX

    def at(rung: PanelRung) -> tuple[float, float]:
        up = (math.log10(max(rung.kl_divergence, FLOOR)) - low) / max(high - low, 1)
        return LEFT_PX + float(getattr(rung, field)) / most * plot[0], TOP_PX + (1 - up) * plot[1]

    parts = _grid(low, high, most, plot, label)
    for is_ours, kind in ((False, "dearer"), (True, "saving")):
        best = front([rung for rung in rungs if rung.is_ours == is_ours], field)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, best))
        parts.append(f'<polyline class="front {kind}-line" points="{points}" fill="none"></polyline>')
        for rung in rungs:
            if rung.is_ours == is_ours:
                x, y = at(rung)
                about = escape(f"{rung.name}: KL {rung.kl_divergence:.5f}, {rung.bits_per_weight:.2f} bits per weight")
                parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{about}</title></circle>')
        for rung in best:
            x, y = at(rung)
            parts.append(f'<text class="tick" x="{x + 6:.1f}" y="{y - 5:.1f}">{escape(rung.format)}</text>')
    ours = front([rung for rung in rungs if rung.is_ours], field)
    described = "; ".join(f"{rung.name} KL {rung.kl_divergence:.4f}" for rung in ours)
    return (
        f'<figure><svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">KL divergence against {escape(label)}</title>'
        f'<desc id="{name}-text">{escape(described)}</desc>{"".join(parts)}</svg>'
        f"<figcaption>KL divergence from float32 (logarithmic; lower is better) against {escape(label)}: green "
        "farthing, orange llama.cpp; the lines join what nothing cheaper beats.</figcaption></figure>"
    )


def _grid(low: int, high: int, most: float, plot: tuple[int, int], label: str) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        y = TOP_PX + (1 - (power - low) / max(high - low, 1)) * plot[1]
        parts.append(f'<line x1="{LEFT_PX}" x2="{LEFT_PX + plot[0]}" y1="{y:.1f}" y2="{y:.1f}"></line>')
        parts.append(f'<text class="tick" x="{LEFT_PX - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g}</text>')
    for part in range(5):
        x = LEFT_PX + part / 4 * plot[0]
        amount = f"{part / 4 * most:.3g}"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{TOP_PX + plot[1] + 18}" text-anchor="middle">{amount}</text>')
    middle = LEFT_PX + plot[0] / 2
    return [*parts, f'<text class="tick" x="{middle}" y="{HEIGHT_PX - 4}" text-anchor="middle">{escape(label)}</text>']


def _table(rungs: Sequence[PanelRung]) -> str:
    rows = []
    for rung in sorted(rungs, key=lambda r: (-r.bits_per_weight, r.kl_divergence)):
        cells = (
            rung.name,
            f"{rung.bits_per_weight:.3f}",
            f"{rung.num_bytes / 1e6:.1f}",
            f"{rung.perplexity:.2f}",
            f"{rung.kl_divergence:.5f}",
            f"{rung.top1_agreement:.2%}",
            "–" if rung.prefill_tok_s is None else f"{rung.prefill_tok_s:,.0f}",
            "–" if rung.decode_tok_s is None else f"{rung.decode_tok_s:,.0f}",
            "–" if rung.usd_per_mtok is None else f"${rung.usd_per_mtok:.5f}",
        )
        rows.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEAD)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'

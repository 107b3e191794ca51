"""Mixture of experts in the waterfall's second panel: a sparse model beside a dense one of as many parameters, as
benchmarks/moe.py measured them.

Both have random weights, which have no quality of their own. What stands there is what the sparse path loses: its
answers' divergence from the same weights in float32.
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

__all__ = ["MoePanel", "moe_html", "moe_json", "print_moe", "read_moe"]

TITLE = "Part of the model: a mixture of experts beside a dense model of as many parameters"
HEAD = ("model", "$/Mtok, one sequence", "cheaper", "tok/s", "GB a token", "quality")


@dataclass(frozen=True)
class MoePanel:
    """Of one sequence that decodes."""

    num_parameters: int
    sparse_bytes: int  # of weights that a token reads
    dense_bytes: int
    sparse_s: float  # of a token
    dense_s: float
    kl_divergence: float  # of the sparse model from its own weights in float32, nats per token
    top1_agreement: float  # 0 to 1
    machine: str
    commit: str

    @property
    def quality(self) -> str:
        return f"KL {self.kl_divergence:.4f}, top-1 {100 * self.top1_agreement:.1f} % of its own float32"

    @property
    def sentence(self) -> str:
        return (
            f"{self.num_parameters / 1e9:.2f} B parameters each, random weights: neither says anything sensible, so "
            f"they compare cost, not quality. Another model, so outside of the sum above. Measured on {self.machine}, "
            f"commit {self.commit} (benchmarks/moe.py)."
        )


def read_moe(path: Path) -> MoePanel:
    """The document that benchmarks/moe.py prints last. Raises InvalidRequest where it is not that."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sparse_s = 1 / _number(found["decode_tok_s"])
        return MoePanel(
            num_parameters=int(_number(found["parameters"])),
            sparse_bytes=int(_number(found["active_bytes"])),
            dense_bytes=int(_number(found["active_bytes"]) * _number(found["bytes_ratio"])),
            sparse_s=sparse_s,
            dense_s=sparse_s * _number(found["dense_over_moe"]),
            kl_divergence=_number(found["kl_divergence"]),
            top1_agreement=_number(found["top1_agreement"]),
            machine=str(found["machine"]),
            commit=str(found["commit"]),
        )
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        told = "give the last line that it prints, in a file"
        raise InvalidRequest(f"{path} is no result of benchmarks/moe.py; {told}") from None


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def moe_json(panel: MoePanel, host: HostCost) -> dict[str, Any]:
    costs = {f"{name}_usd_per_mtok": float(_cost(s, host)) for name, s in _seconds(panel).items()}
    return {**vars(panel), **costs, "cheaper": panel.dense_s / panel.sparse_s}


def print_moe(panel: MoePanel, host: HostCost, console: Console) -> None:
    console.print(TITLE)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="left" if number in (0, 5) else "right")
    for row in _rows(panel, host):
        table.add_row(*row)
    console.print(table)
    console.print(panel.sentence)


def moe_html(panel: MoePanel, host: HostCost) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in _rows(panel, host))
    return (
        f'<h2>{escape(TITLE)}</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><p>{escape(panel.sentence)}</p>"
    )


def _seconds(panel: MoePanel) -> dict[str, float]:
    return {"dense": panel.dense_s, "sparse": panel.sparse_s}


def _cost(seconds: float, host: HostCost) -> Decimal:
    """Of a million tokens."""
    return host.usd(seconds * 1e6)


def _rows(panel: MoePanel, host: HostCost) -> list[tuple[str, ...]]:
    dense, sparse = _cost(panel.dense_s, host), _cost(panel.sparse_s, host)
    cheaper = "" if sparse == 0 else times(dense / sparse)
    return [
        ("dense", usd(dense), "", rate(1 / panel.dense_s), f"{panel.dense_bytes / 1e9:.2f}", "not compared"),
        ("sparse", usd(sparse), cheaper, rate(1 / panel.sparse_s), f"{panel.sparse_bytes / 1e9:.2f}", panel.quality),
    ]

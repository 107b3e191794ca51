"""The waterfall's findings as one value, and as the JSON document that carries all of them."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from farthing.economics.cost import HostCost, HostedCost, break_even_utilisation
from farthing.economics.waterfall import Measured, Row, UsdPerMtok, waterfall
from farthing.report.distill_panel import DistillPanel, distill_json
from farthing.report.ladder_panel import LadderPanel, ladder_json
from farthing.report.machine import Machine
from farthing.report.moe_panel import MoePanel, moe_json
from farthing.report.routing_panel import RoutingPanel, panel_json

__all__ = ["Hosted", "LeverResult", "Quality", "Report", "Sample", "compare_hosted", "to_json"]


@dataclass(frozen=True)
class Quality:
    """`identical` is checked, never assumed; `measured` carries the divergence from full precision."""

    kind: Literal["reference", "identical", "measured"]
    text: str  # what was compared
    tokens: int  # how much of it
    kl_divergence: float | None = None  # nats per token
    top1_agreement: float | None = None  # 0 to 1
    num_different: int | None = None  # requests whose greedy tokens differ from the reference's

    def __str__(self) -> str:
        if self.kind == "reference":
            return "reference"
        if self.kind == "identical":
            return "identical to above"
        return f"KL {self.kl_divergence:.2g}, top-1 {self.top1_agreement:.2%}"


@dataclass(frozen=True)
class Sample:
    """The part of the workload a row was measured on, and its ratios to the next row on the same requests."""

    num_requests: int
    seconds: float
    next_row_seconds: float | None
    input_ratio: float | None
    output_ratio: float | None


@dataclass(frozen=True)
class LeverResult:
    lever: str
    detail: str
    measured: Measured
    quality: Quality
    peak_bytes: int | None  # None: this system does not tell
    sample: Sample | None = None  # only of a row that was not measured on the whole workload


@dataclass(frozen=True)
class Hosted:
    """The same tokens at a hosted model; `break_even` is the share of its time this machine must be busy to cost no
    more (above 1: it cannot be busy enough; None: hosted tokens are free)."""

    role: str
    cost: HostedCost
    break_even: Decimal | None


@dataclass(frozen=True)
class Report:
    machine: Machine
    commit: str
    command: str
    measured_at: str  # ISO 8601, UTC
    model: str
    workload: str
    num_requests: int
    host: HostCost
    results: tuple[LeverResult, ...]
    missing: tuple[str, ...] = ()  # levers not measured, because the run was interrupted
    hosted: tuple[Hosted, ...] = ()
    notes: tuple[str, ...] = ()
    moe: MoePanel | None = None  # another model, outside of the sum
    routing: RoutingPanel | None = None  # another model pair, outside of the sum
    ladder: LadderPanel | None = None  # of weight formats, measured at another time
    distill: DistillPanel | None = None  # another task, outside of the sum
    rows: tuple[Row, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", waterfall([result.measured for result in self.results], self.host))

    @property
    def is_partial(self) -> bool:
        return bool(self.missing)

    @property
    def reference(self) -> str | None:
        """The lever whose answers and cost the others are compared with."""
        return self.results[0].lever if self.results else None


def to_json(report: Report) -> dict[str, Any]:
    """Everything, in plain JSON types: rates and factors are numbers, seconds and bytes as measured."""
    return {
        "machine": {"description": str(report.machine), **vars(report.machine)},
        "commit": report.commit,
        "command": report.command,
        "measured_at": report.measured_at,
        "partial": report.is_partial,
        "missing": list(report.missing),
        "model": report.model,
        "workload": {"name": report.workload, "requests": report.num_requests},
        "usd_per_hour": float(report.host.usd_per_hour),
        "usd_per_hour_source": report.host.source,
        "utilisation": float(report.host.utilisation),
        "watts": _number(report.host.watts),
        "usd_per_kwh": _number(report.host.usd_per_kwh),
        "reference": report.reference,
        "rows": [_row(row, result, report.host) for row, result in zip(report.rows, report.results, strict=True)],
        "hosted": [_hosted(hosted) for hosted in report.hosted],
        "moe": None if report.moe is None else moe_json(report.moe, report.host),
        "routing": None if report.routing is None else panel_json(report.routing),
        "ladder": None if report.ladder is None else ladder_json(report.ladder),
        "distill": None if report.distill is None else distill_json(report.distill, report.host),
        "notes": list(report.notes),
    }


def _row(row: Row, result: LeverResult, host: HostCost) -> dict[str, Any]:
    sample = result.sample
    return {
        "lever": row.lever,
        "detail": result.detail,
        "seconds": float(row.seconds),
        "input_s": float(row.input_s),
        "output_s": float(row.output_s),
        "input_tokens": row.input_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "output_tokens": row.output_tokens,
        "input_tok_s": tok_s(row.input_tokens, row.input_s),
        "output_tok_s": tok_s(row.output_tokens, row.output_s),
        "cost_usd": float(row.cost_usd),
        "usd_per_mtok": _rates(row.usd_per_mtok),
        "energy_usd_per_mtok": _number(energy_usd_per_mtok(row, host)),
        "factor_previous": float(row.factor_previous),
        "factor_first": float(row.factor_first),
        "quality": vars(result.quality),
        "peak_bytes": result.peak_bytes,
        "is_scaled": sample is not None and sample.next_row_seconds is not None,
        "sample": None if sample is None else vars(sample),
    }


def _hosted(hosted: Hosted) -> dict[str, Any]:
    cost = hosted.cost
    rates = {item.name: float(item.usd_per_mtok) for item in cost.bill.items}
    return {
        "model": cost.price.model,
        "provider": cost.price.provider,
        "role": hosted.role,
        "cost_usd": float(cost.usd),
        "cost_usd_with_cache": _number(cost.usd_with_cache),
        "usd_per_mtok": {**rates, "blended": float(cost.usd_per_mtok)},
        "break_even_utilisation": _number(hosted.break_even),
        "price_source": cost.price.source.text,
    }


def compare_hosted(
    results: tuple[LeverResult, ...], costs: tuple[HostedCost, ...], roles: tuple[str, ...], host: HostCost
) -> tuple[Hosted, ...]:
    """How busy this machine must be, with the last row's levers, to cost what each hosted model costs."""
    rows = waterfall([result.measured for result in results], host)
    return tuple(
        Hosted(role, cost, break_even_utilisation(host, rows[-1].seconds, cost.usd))
        for role, cost in zip(roles, costs, strict=True)
    )


def _number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def _rates(rates: UsdPerMtok) -> dict[str, float]:
    return {name: float(value) for name, value in vars(rates).items()}


def tok_s(num_tokens: int, seconds: Decimal) -> float | None:
    """Tokens a second; None where no time was spent."""
    return num_tokens / float(seconds) if seconds else None


def energy_usd_per_mtok(row: Row, host: HostCost) -> Decimal | None:
    """Marginal cost of a blended million tokens in dollars, the energy alone; None where watts are not known."""
    tokens = row.input_tokens + row.output_tokens
    return host.energy_usd_per_mtok(tokens, row.seconds) if tokens else None

"""A made-up report, with figures that are easy to follow."""

from decimal import Decimal

from farthing.economics.cost import HostCost
from farthing.economics.usage import Usage
from farthing.economics.waterfall import Measured
from farthing.report.document import LeverResult, Quality, Report, Sample
from farthing.report.machine import Machine

LEVERS = (
    ("old <way> of many words, all long", 400.0, 100.0),
    ("cache", 40.0, 60.0),
    ("batching", 40.0, 10.0),
    ("eight bits", 45.0, 10.0),
)


def report(num_rows: int = len(LEVERS), watts: Decimal | None = None) -> Report:
    results = []
    for index, (name, input_s, output_s) in enumerate(LEVERS[:num_rows]):
        quality = (
            Quality("reference", "itself", 10)
            if index == 0
            else Quality("measured", "a text", 500, 0.0123, 0.975, 3)
            if index == 3
            else Quality("identical", "tokens", 1000, num_different=0)
        )
        measured = Measured(name, Usage(10_000, 0, 1_000, input_s, output_s), input_s + output_s)
        sample = Sample(3, 50.0, 5.0, 10.0, 2.0) if index == 0 else None
        results.append(LeverResult(name, f"detail of {name}", measured, quality, (index + 1) << 28, sample))
    return Report(
        machine=Machine("a CPU & more", 2, 2**34, "Linux", "3.11", "avx2"),
        commit="abc",
        command="farthing waterfall",
        measured_at="2026-11-22T12:00:00+00:00",
        model="small",
        workload="made up",
        num_requests=10,
        host=HostCost(Decimal("0.36"), watts=watts, usd_per_kwh=None if watts is None else Decimal("0.15")),
        results=tuple(results),
        missing=tuple(name for name, _, _ in LEVERS[num_rows:]),
        notes=("a note with <tags>",),
    )

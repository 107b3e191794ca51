"""report.json: what was asked, what was trained, and the table of results."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from farthing.distill.data import Data
from farthing.distill.job import DistillJob
from farthing.distill.result import Result, finite, result_document
from farthing.distill.stages import Made
from farthing.economics.cost import HostCost
from farthing.report.whole_file import whole_file

__all__ = ["STUDENT", "TEACHER", "report_document", "write_report"]

TEACHER, STUDENT = "tuned teacher", "student"  # rows of the table; costs are compared with the teacher's


def report_document(
    job: DistillJob, data: Data, made: Made, results: Sequence[Result], host: HostCost
) -> dict[str, Any]:
    trained = made.trained
    return {
        "teacher": job.teacher,
        "student": asdict(job.student) | {"layers": list(made.layers)},
        "rows": {"train": len(data.train), "validation": len(data.validation), "held_out": len(data.held_out)},
        "labels": len(made.labels) or None,
        "variants": made.num_variants,
        "left_out": {**data.dropped, **made.left_out},
        "trained": {
            "steps": trained.num_steps,
            "tokens": trained.num_tokens,
            "seconds": trained.seconds,
            "best": {name: finite(value) for name, value in asdict(trained.best).items()},
        },
        "compared_with": TEACHER,
        "usd_per_hour": str(host.usd_per_hour),
        "quantized": made.quantized.name,
        "results": [result_document(result, host) for result in results],
    }


def write_report(job: DistillJob, document: Mapping[str, Any]) -> None:
    """Into the student's folder, whole."""
    with whole_file(job.output / "report.json", "-o") as file:
        file.write(json.dumps(document, indent=1, allow_nan=False) + "\n")

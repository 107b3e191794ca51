"""How good and how cheap a distilled student is: beside its tuned teacher, the untrained one with a prompt, a linear
model on n-grams, and all three stages as a cascade.

    FARTHING_DATA=… python -m benchmarks.distill [--minutes 90] [--tasks banking77,clinc150] [--cache FOLDER]

SmolLM2-135M-Instruct gets a classification head and is tuned; a student of some of its layers learns from it and from
the linear model. Folders that are there already (`<task>-teacher` and `<task>-student` in --cache) are taken as they
are, so that a run can be stopped and measured again; else each is trained for at most --minutes. All are timed in our
engine, 1,024 texts at a time, in turn, round after round: teacher and student in weights of 8 bits ("student" alone as
it was trained), the linear model in NumPy's float32, the cascade as it is served; the prompted model, in the bits of
its pulled file, by the engine's own account of one pass of 16 requests at once with a shared prefix. Ratios of costs
are medians of the rounds' own. The last line is one JSON document; all figures are in benchmarks/results/distill.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # farthing shares the work among its own threads

from benchmarks.distill_tasks import TASKS, load_task
from benchmarks.intents_data import tasks_folder
from farthing.distill import recipe
from farthing.distill.data import Data
from farthing.distill.job import DistillJob
from farthing.distill.labels_report import measure_labels
from farthing.distill.progress import Point, Trained
from farthing.distill.report_file import STUDENT, TEACHER, report_document
from farthing.distill.result import times_cheaper
from farthing.distill.run import make_labels_student
from farthing.distill.stages import Made, Telling, quantized_student
from farthing.distill.student import parse_student
from farthing.economics.cost import HostCost
from farthing.errors import InvalidRequest
from farthing.kernels import instruction_sets
from farthing.models import Model, load_model
from farthing.models.hub import models_folder
from farthing.report.machine import commit, this_machine

RESULTS = Path(__file__).parent / "results" / "distill.json"
MODEL = "smollm2-135m-instruct"


def job_of(task: str, options: argparse.Namespace) -> DistillJob:
    """From the tuned teacher's folder where it is there, else from the untrained model."""
    name = task.removesuffix("-oos")  # the same models
    teacher = options.cache / f"{name}-teacher"
    ends: dict[str, Any] = {"minutes": options.minutes, "num_threads": options.threads}
    return DistillJob(
        teacher=str(teacher) if teacher.is_dir() else MODEL,
        student=parse_student(options.student),
        output=options.cache / f"{name}-student",
        teacher_recipe=replace(recipe.TEACHER, **ends),
        student_recipe=replace(recipe.STUDENT, **ends),
        num_variants=options.variants,
        num_threads=options.threads,
        num_prompted=options.prompted,
    )


def made_of(job: DistillJob, data: Data, telling: Telling) -> Made:
    """Trained, or what lies there from before."""
    if not job.output.is_dir():
        return make_labels_student(job, data, telling)
    student = load_model(job.output)
    assert student.labels is not None
    path = job.output.with_name(f"{job.output.name}-{job.format}.gguf")
    if not path.is_file():
        path = quantized_student(job, telling)
    teacher = Path(job.teacher) if Path(job.teacher).is_dir() else job.work / "teacher"
    notes = json.loads((job.output / "training.json").read_text(encoding="utf-8"))
    history = tuple(Point(**point) for point in notes["history"])
    best = next(point for point in history if point.step == notes["best_step"])
    trained = Trained(job.output, best, history, notes["num_steps"], notes["num_tokens"], notes["seconds"])
    return Made(
        teacher, job.output, path, student.labels, layers_of(job, student), trained, None, num_variants_of(job, data)
    )


def layers_of(job: DistillJob, student: Model) -> tuple[int, ...]:
    """Which of the teacher's layers the student in the cache has. Raises InvalidRequest where --student is another."""
    notes, named = job.work / "layers.json", job.student.layers
    if notes.is_file():
        return tuple(json.loads(notes.read_bytes()))
    if not isinstance(named, tuple) or len(named) != student.config.num_layers:
        raise InvalidRequest(f"{job.output} has {student.config.num_layers} layers; name them with --student")
    return named


def num_variants_of(job: DistillJob, data: Data) -> int:
    return 2 * len(data.train) if job.num_variants is None else job.num_variants


def measure(task: str, data: Data, options: argparse.Namespace, telling: Telling, host: HostCost) -> dict[str, Any]:
    begun = perf_counter()
    job = job_of(task, options)
    made = made_of(job, data, telling)
    found = measure_labels(job, data, made, host, telling, prompted=MODEL).results
    document = report_document(job, data, made, found, host)
    return {
        "task": task,
        "num_test": len(data.held_out),
        "rows": document["results"],
        "summary": _summary(document["results"], f"{STUDENT}, {job.format}"),
        "seconds": perf_counter() - begun,
        **{name: value for name, value in document.items() if name not in ("results", "rows", "teacher")},
    }


def _summary(rows: Sequence[dict[str, Any]], student: str) -> dict[str, float | tuple[float, float] | None]:
    """The figures of the last line; a cost ratio says how many times cheaper than the tuned teacher (or the prompted
    one) the student or the cascade is: the median of the rounds, and between which they lie."""
    by_name = {row["name"]: row for row in rows}
    chain, best = (row for name, row in by_name.items() if "→" in name)
    prompted = by_name.get("prompted")
    ratio, *ratio_range = times_cheaper(by_name[TEACHER], by_name[student])
    chain_ratio, *chain_range = times_cheaper(by_name[TEACHER], chain)
    return {
        "teacher_accuracy": by_name[TEACHER]["accuracy"],
        "student_accuracy": by_name[student]["accuracy"],
        "linear_accuracy": by_name["linear"]["accuracy"],
        "cost_ratio": ratio,
        "cost_ratio_range": tuple(ratio_range),
        "prompted_cost_ratio": None if prompted is None else times_cheaper(prompted, by_name[student])[0],
        "cascade_accuracy": chain["accuracy"],
        "cascade_cost_ratio": chain_ratio,
        "cascade_cost_ratio_range": tuple(chain_range),
        "best_cascade_accuracy": best["accuracy"],
        "best_cascade_cost_ratio": times_cheaper(by_name[TEACHER], best)[0],
    }


def show(found: dict[str, Any]) -> None:
    base = next(row for row in found["rows"] if row["name"] == TEACHER)
    print(f"\n{found['task']}: {found['labels']} intents, {found['num_test']:,} test rows")
    for row in found["rows"]:
        seconds, against = row["seconds_per_request"], row.get("against_linear")
        beside = "" if against is None else f"  against linear: p {against['p']:.2g}"
        kl = "" if row["kl"] is None else f"  KL {row['kl']:.4f}"
        ratio, low, high = times_cheaper(base, row)
        shares = "" if "shares" not in row else "  " + "/".join(f"{share:.1%}" for share in row["shares"])
        print(f"  {row['name']:44} {row['accuracy']:.2%} ({row['low']:.1%}–{row['high']:.1%})"
              f"  {seconds * 1000:8.4f} ms  ${float(row['usd_per_million_requests']):9.4f}/M"
              f"  {ratio:6.2f} × cheaper ({low:.2f}–{high:.2f}){kl}{beside}{shares}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--minutes", type=float, default=90.0, help="of each training, at most")
    parser.add_argument("--student", default="layers=0+1+2+3+29,vocab=all")
    parser.add_argument("--variants", type=int, default=20_000, help="made-up texts for the teacher to label")
    parser.add_argument("--prompted", type=int, default=200, help="test rows that the prompted model is asked")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=models_folder().parent / "distill")
    options = parser.parse_args(arguments)
    folder = tasks_folder()
    if folder is None:
        sys.exit("FARTHING_DATA names no folder with tasks in it: there is nothing to measure on")
    options.cache.mkdir(parents=True, exist_ok=True)
    host, telling = HostCost(), Telling(stage=lambda name: print(name, file=sys.stderr))
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())["tasks"] if RESULTS.is_file() else {}
    for task in options.tasks.split(","):
        found[task] = measure(task, load_task(folder, task), options, telling, host)
        found[task]["commit"] = commit()
        show(found[task])
    document = {
        "benchmark": "distill",
        "machine": str(this_machine(instruction_sets()[0])),
        "commit": commit(),
        "model": MODEL,
        "threads": options.threads,
        "usd_per_hour": str(host.usd_per_hour),
        "tasks": found,
    }
    RESULTS.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(json.dumps({task: measured["summary"] for task, measured in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

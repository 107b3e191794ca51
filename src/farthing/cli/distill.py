"""`farthing distill`: a large model's behaviour on one task, taught to a small one; then measured, with its bill."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from farthing.cli._output import JsonOption, ThreadsOption, UsdPerHourOption, console, emit, note
from farthing.economics.cost import DEFAULT_USD_PER_HOUR
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.distill.data import Example, TaskKind
    from farthing.distill.job import DistillJob
    from farthing.economics.cost import HostCost

__all__ = ["EXAMPLE", "distill"]

EXAMPLE = (
    "farthing distill --teacher smollm2-135m-instruct --data task.jsonl --student layers=6,vocab=task -o small "
    "--minutes 30"
)


def distill(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher", metavar="M", help="A local model, or with --config an upstream/model: its texts only."
        ),
    ],
    student: Annotated[
        str, typer.Option("--student", metavar="SPEC", help="layers=6,vocab=task; layers=0+1+14+29; vocab=all or N.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="The student's folder; OUT.work holds what is resumed."),
    ],
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE", help="Labelled prompts, as compare reads them.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option("--test", metavar="FILE", help="Rows to measure on, instead of a share of the data.")
    ] = None,
    ledger: Annotated[
        str | None, typer.Option("--from-ledger", metavar="URL", help="Stored traffic of this ledger, too.")
    ] = None,
    served: Annotated[
        str | None, typer.Option("--served", metavar="MODEL", help="Of the ledger, what this model answered alone.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="The farthing.toml.")] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start", metavar="MODEL", help="The local model that is tuned where the teacher is an upstream."
        ),
    ] = "smollm2-135m-instruct",
    task: Annotated[
        str | None, typer.Option("--task", metavar="KIND", help="labels or text, where it is not plain from the data.")
    ] = None,
    held_out: Annotated[
        float,
        typer.Option("--held-out", metavar="SHARE", help="Share to measure on; of the rest, the same share chooses."),
    ] = 0.1,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="N", help="Of the student's training.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Of the student's training.")] = None,
    teacher_minutes: Annotated[
        float | None, typer.Option("--teacher-minutes", metavar="N", help="Of tuning the teacher (default: --minutes).")
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option("--teacher-steps", metavar="N", help="Of tuning the teacher (default: 4 epochs).")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option("--learning-rate", metavar="X", help="Of the student's training (default 5e-4, its head 1e-3)."),
    ] = None,
    kl: Annotated[str, typer.Option("--kl", help="Divergence from the teacher: forward, reverse or jsd.")] = "forward",
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="Softens both distributions.")] = 1.0,
    hidden: Annotated[
        float, typer.Option("--hidden-weight", metavar="X", help="How much the last hidden state is to match.")
    ] = 0.0,
    lora: Annotated[int, typer.Option("--lora", metavar="RANK", help="Train small matrices beside the weights.")] = 0,
    num_variants: Annotated[
        int | None,
        typer.Option(
            "--variants", metavar="N", help="Texts made up for the teacher to label (default: twice the rows)."
        ),
    ] = None,
    linear_share: Annotated[
        float | None,
        typer.Option("--linear-share", metavar="X", help="How much the n-gram model's word on these counts (0.5)."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="Of the quantized student beside OUT.")] = "q8_0",
    num_prompted: Annotated[
        int | None,
        typer.Option("--prompted", metavar="N", help="Rows to ask the untrained teacher, with a prompt (64)."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N")] = 0,
    usd_per_hour: UsdPerHourOption = DEFAULT_USD_PER_HOUR,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Teach a small model one task: tune a teacher, collect what it says, train, quantize, measure.

    A second run with the same options goes on where the first was stopped. What lies at OUT in the end is an ordinary
    model folder with a report.json, and beside it the student in few bits.
    """
    # Before NumPy is imported: the work is shared among threads by farthing, and BLAS's own would wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from farthing.cli._distill import collect_answers, print_table, read_data
    from farthing.cli._engine import usable_threads
    from farthing.distill.data import TaskKind, to_ask
    from farthing.distill.job import DistillJob
    from farthing.distill.recipe import STUDENT, TEACHER, KlKind
    from farthing.distill.student import parse_student
    from farthing.distill.torch_need import need_torch
    from farthing.economics.cost import HostCost

    need_torch()
    host = HostCost(usd_per_hour)
    num_threads = usable_threads(threads)
    recipe = replace(
        STUDENT, **_end(minutes, steps), kl=_choice("--kl", kl, get_args(KlKind)), temperature=temperature,
        hidden_weight=hidden, lora_rank=lora, seed=seed, num_threads=num_threads,
        **_given(learning_rate=rate, head_learning_rate=rate),
    )  # fmt: skip
    tuning = _end(minutes if teacher_minutes is None and teacher_steps is None else teacher_minutes, teacher_steps)
    teacher_recipe = replace(TEACHER, **tuning, seed=seed, num_threads=num_threads)
    job = DistillJob(
        teacher if config is None else start, parse_student(student), output, teacher_recipe, recipe, num_variants,
        format=format, num_threads=num_threads, **_given(linear_share=linear_share, num_prompted=num_prompted),
    )  # fmt: skip
    of_labels = {"--hidden-weight": hidden, "--variants": num_variants, "--linear-share": linear_share,
                 "--prompted": num_prompted}  # fmt: skip
    kind = _choice("--task", task, get_args(TaskKind))
    rows = read_data(data or [], ledger, served)
    tested = [] if test is None else read_data([test], None, None)
    left_out: Mapping[str, int] = {}
    if config is not None:
        rows, left_out = to_ask(rows, tested)
        answers = output.with_name(output.name + ".answers.jsonl")
        rows = asyncio.run(collect_answers(config, teacher, rows, answers, threads))
    try:
        document = _run(job, rows, tested, kind, held_out, host, left_out, [name for name, x in of_labels.items() if x])
    except KeyboardInterrupt:
        note(f"stopped; the same command goes on from {job.work}")
        raise
    emit(json, document, lambda: print_table(document, console()))
    note(f"student: {output}; in few bits: {output.with_name(document['quantized'])}; report: {output / 'report.json'}")
    if document["labels"]:
        note(f"cascade, for farthing classify and serve: {job.cascade}")


def _end(minutes: float | None, steps: int | None) -> dict[str, Any]:
    """What a recipe says of when it is over: the number of epochs is the default alone."""
    ends = _given(minutes=minutes, num_steps=steps)
    return ends | ({"epochs": None} if ends else {})


def _given(**values: float | int | None) -> dict[str, Any]:
    """Of options those that were given: the defaults of the others live in the recipe and the job."""
    return {name: value for name, value in values.items() if value is not None}


def _run(
    job: "DistillJob", rows: "list[Example]", tested: "list[Example]", task: "TaskKind | None", share: float,
    host: "HostCost", left_out: Mapping[str, int], of_labels: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """left_out: rows that went before. of_labels: options given that mean nothing where answers are texts."""
    from farthing.cli._distill import left_out_line, telling
    from farthing.distill.cascade_folder import write_cascade
    from farthing.distill.data import collected
    from farthing.distill.labels_report import measure_labels
    from farthing.distill.report_file import report_document, write_report
    from farthing.distill.run import make_labels_student
    from farthing.distill.text_report import measure_text
    from farthing.distill.text_run import make_text_student

    data = collected(rows, test=tested, kind=task, share=share, dropped=left_out)
    if data.labels is None and of_labels:
        raise InvalidRequest(f"{of_labels[0]} is for tasks of labels, and these answers are texts; leave it out, or "
                             "give --task labels")  # fmt: skip
    for why, count in data.dropped.items():
        note(left_out_line(why, count))
    kind = "free text" if data.labels is None else f"{len(data.labels)} labels"
    note(f"{kind}; rows: {len(data.train):,} to teach, {len(data.validation):,} to choose by, "
         f"{len(data.held_out):,} to measure on")  # fmt: skip
    with telling() as told:
        if data.labels is None:
            made = make_text_student(job, data, told)
            results = measure_text(job, data, made, told)
        else:
            made = make_labels_student(job, data, told)
            measured = measure_labels(job, data, made, host, told)
            results = measured.results
            told.stage("writing the cascade")
            write_cascade(job, made.labels, measured.cascade)
    document = report_document(job, data, made, results, host)
    write_report(job, document)
    return document


def _choice(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    if value is not None and value not in allowed:
        raise InvalidRequest(f"{option} is {value!r}; allowed: {', '.join(allowed)}")
    return value

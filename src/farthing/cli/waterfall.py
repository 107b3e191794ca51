"""`farthing waterfall`: what a million tokens cost on this machine, lever by lever."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from farthing.cli._engine import DEFAULT_HOST, usable_threads
from farthing.cli._output import (
    DEFAULT_MODEL,
    ModelOption,
    ThreadsOption,
    UsdPerHourOption,
    console,
    emit,
    note,
    parse_decimal,
    progress,
)
from farthing.cli._route import known_states
from farthing.economics.cost import DEFAULT_HOSTED, HostCost
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.report.document import Hosted, Report
    from farthing.report.measure import Findings, Progress
    from farthing.report.routing_panel import RoutingPanel
    from farthing.report.workload import Workload

EXAMPLE = "farthing waterfall requests.jsonl --usd-per-hour 0.0765 --html waterfall.html --json waterfall.json"

ROLES = ("small", "middle", "frontier")


def waterfall(
    workload: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="WORKLOAD.jsonl",
            help="One OpenAI chat request per line (default: the 50 that come with farthing).",
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    usd_per_hour: UsdPerHourOption = DEFAULT_HOST.usd_per_hour,
    html: Annotated[Path | None, typer.Option("--html", metavar="OUT", help="Write a page with the chart.")] = None,
    json_mode: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document on stdout; --json OUT.json writes it there instead."),
    ] = False,
    json_out: Annotated[Path | None, typer.Option("--json-out", metavar="OUT", help="Write the JSON document.")] = None,
    hosted: Annotated[
        str, typer.Option("--hosted", metavar="A,B,C", help="Hosted models to compare the cost with.")
    ] = ",".join(DEFAULT_HOSTED),
    watts: Annotated[
        Decimal | None, typer.Option("--watts", parser=parse_decimal, metavar="W", help="What the machine draws.")
    ] = None,
    usd_per_kwh: Annotated[
        Decimal | None, typer.Option("--usd-per-kwh", parser=parse_decimal, metavar="USD", help="Price of its energy.")
    ] = None,
    threads: ThreadsOption = None,
    router: Annotated[
        Path | None, typer.Option("--router", metavar="FILE", help="A second panel: what this router saves …")
    ] = None,
    moe: Annotated[
        Path | None, typer.Option("--moe", metavar="FILE", help="A panel of experts: what benchmarks/moe.py measured.")
    ] = None,
    labelled: Annotated[
        Path | None, typer.Option("--labelled", metavar="DATA.jsonl", help="… and holds, on these labelled rows.")
    ] = None,
    ladder: Annotated[
        Path | None, typer.Option("--ladder", metavar="FILE", help="Show the weight formats that ladder.py measured.")
    ] = None,
    distill: Annotated[
        Path | None, typer.Option("--distill", metavar="FILE", help="Show the students that distill.py measured.")
    ] = None,
) -> None:
    """Run a workload once per lever and show what each does to the cost, the speed and the answers.

    Ctrl-C stops early and leaves a report of what was complete.
    """
    source, beside_json = _paths(workload or [], json_mode)
    if beside_json is not None:
        json_mode, json_out = False, beside_json
    host = HostCost(usd_per_hour, watts=watts, usd_per_kwh=usd_per_kwh)
    if host.usd_per_hour == 0:
        raise InvalidRequest("--usd-per-hour is 0: where tokens are free no lever saves anything; give a price above 0")
    models = tuple(name.strip() for name in hosted.split(",") if name.strip())
    for path in (html, json_out):  # found out now, not after minutes of measuring
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise InvalidRequest(f"{path}: cannot be written; give a file in a folder that exists")

    from farthing.economics.prices import PriceBook
    from farthing.report.distill_panel import read_distill
    from farthing.report.ladder_panel import read_ladder
    from farthing.report.measure import measure
    from farthing.report.moe_panel import read_moe
    from farthing.report.workload import built_in, read_workload

    now = datetime.now(UTC)
    for name in models:  # a typo is found out before the measuring too
        PriceBook().find(name, at=now)
    work = built_in() if source is None else read_workload(source)
    routing = _routing(router, labelled)
    experts = None if moe is None else read_moe(moe)
    formats = read_ladder(ladder) if ladder is not None else None
    students = None if distill is None else read_distill(distill)
    with _progress() as bar:
        findings = measure(model, work, usable_threads(threads), bar)
    report = _report(findings, model, work, host, models, now)
    report = replace(report, routing=routing, moe=experts, ladder=formats, distill=students)
    _deliver(report, html, json_out, json_mode)
    if report.is_partial:
        raise KeyboardInterrupt


def _routing(router: Path | None, labelled: Path | None) -> "RoutingPanel | None":
    """Judged before the measuring, so that what is wrong with it is found out at once."""
    if router is None and labelled is None:
        return None
    if router is None or labelled is None:
        raise InvalidRequest("--router and --labelled belong together: a router, and rows that it has not seen")
    from farthing.report.routing_panel import routing_panel
    from farthing.router.labels_file import gather, read_lines
    from farthing.router.learning import evaluate_on
    from farthing.router.trained import Trained

    trained = Trained.load(router)
    found, told = evaluate_on(trained, gather(read_lines(labelled)), states_of=known_states(trained, None))
    for line in told:
        note(line)
    return routing_panel(labelled.name, found)


def _paths(given: list[Path], json_mode: bool) -> tuple[Path | None, Path | None]:
    """(workload, file for the JSON): with --json a path that ends in .json is where to write."""
    outs = [path for path in given if json_mode and path.suffix == ".json"]
    sources = [path for path in given if path not in outs]
    if len(sources) > 1 or len(outs) > 1:
        raise InvalidRequest(
            f"{' '.join(map(str, given))}: too many files; give one workload (.jsonl), and after --json one .json file"
        )
    return (sources[0] if sources else None), (outs[0] if outs else None)


def _report(
    findings: "Findings", model: str, work: "Workload", host: HostCost, models: tuple[str, ...], at: datetime
) -> "Report":
    from farthing.kernels import instruction_sets
    from farthing.report.document import Report
    from farthing.report.machine import commit, this_machine

    results = tuple(findings.results)
    compared, warnings = _hosted(findings, host, models, at)
    return Report(
        machine=this_machine(instruction_sets()[0]),
        commit=commit(),
        command=shlex.join(["farthing", *sys.argv[1:]]),
        measured_at=at.isoformat(timespec="seconds"),
        model=Path(model).name,
        workload=work.name,
        num_requests=len(work.requests),
        host=host,
        results=results,
        missing=findings.missing,
        hosted=compared,
        notes=(*findings.notes, *warnings),
    )


def _hosted(
    findings: "Findings", host: HostCost, models: tuple[str, ...], at: datetime
) -> tuple[tuple["Hosted", ...], tuple[str, ...]]:
    """The hosted models' costs, for the tokens of the last row; nothing where no row is complete."""
    from farthing.economics.cost import hosted_costs
    from farthing.report.document import compare_hosted

    if not findings.results or not models:
        return (), ()
    costs = hosted_costs(findings.results[-1].measured.usage, models, at=at)
    roles = ROLES if models == DEFAULT_HOSTED else ("chosen",) * len(models)
    warnings = [warning for cost in costs if (warning := cost.price.source.warning(at.date())) is not None]
    about = (
        "Hosted costs are list prices for as many tokens as this model's tokenizer counts; a larger model answers "
        "better, so they compare cost, not quality."
    )
    return compare_hosted(tuple(findings.results), costs, roles, host), (about, *dict.fromkeys(warnings))


def _deliver(report: "Report", html: Path | None, json_out: Path | None, json_mode: bool) -> None:
    from farthing.report.document import to_json
    from farthing.report.html import to_html
    from farthing.report.terminal import print_report

    document = to_json(report)
    if html is not None:
        html.write_text(to_html(report), encoding="utf-8")
    if json_out is not None:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2)
        json_out.write_text(text + "\n", encoding="utf-8")
    emit(json_mode, document, lambda: print_report(report, console()))
    for path in (html, json_out):
        if path is not None:
            note(f"written: {path}")


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A bar per lever on a terminal, a line per lever elsewhere; both on stderr."""
    with progress() as bar:

        class Bars:
            def begin(self, title: str, total: int) -> None:
                self.task = bar.add_task(title, total=total)
                if bar.disable:
                    note(f"measuring: {title}")

            def advance(self, amount: int) -> None:
                bar.update(self.task, advance=amount)

        yield Bars()

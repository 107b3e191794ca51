"""farthing route: which model a request needs, learned from labelled answers, with a threshold that promises."""

import re
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, console, emit, note, parse_decimal
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.router.calibrate import Goal
    from farthing.router.label import Label
    from farthing.router.labels_file import Costs

EXAMPLE = "farthing route train answers.jsonl -o router.safetensors"

app = typer.Typer(help="Learn from labelled answers which model a request needs, and what that saves.")

RouterArgument = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="What `farthing route train` wrote: router.safetensors")
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA.jsonl", help="Labelled rows, or what `farthing compare --out` wrote.")
]
CostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cost", metavar="NAME=USD", help="Of a request to each model, or NAME=USD/Mtok; default: as the rows say."
    ),
]


@app.command("train")
def train(
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the router is written.")],
    models: Annotated[
        str | None, typer.Option("--models", metavar="A,B", help="The models to choose from (default: all labelled).")
    ] = None,
    cost: CostOption = None,
    part: Annotated[
        float, typer.Option("--part", metavar="X", help="Share of DATA to learn from; the others are for calibration.")
    ] = 0.5,
    json: JsonOption = False,
) -> None:
    """Learn from labelled rows. Which rows train is decided by their content; calibrate and eval leave them out."""
    from farthing.report.route_json import router_json
    from farthing.report.route_terminal import print_trained
    from farthing.router.learning import train_on

    made = train_on(_labels(data), part, _costs(cost), _names(models))
    made.trained.save(out)
    for line in made.told:
        note(line)
    emit(json, router_json(made.trained), lambda: print_trained(made.trained, console()))
    note(f"written: {out}; next: farthing route calibrate {out} {data} --target-share-of-large 0.95")


@app.command("calibrate")
def calibrate(
    router: RouterArgument,
    data: DataArgument,
    target_quality: Annotated[
        float | None, typer.Option("--target-quality", metavar="X", help="Mean quality of at least X, 0 to 1.")
    ] = None,
    target_share: Annotated[
        float | None,
        typer.Option("--target-share-of-large", metavar="X", help="At least X of the dearest model's mean quality."),
    ] = None,
    target_cost: Annotated[
        Decimal | None,
        typer.Option("--target-cost", parser=parse_decimal, metavar="USD", help="Mean cost of at most that much."),
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", metavar="X", help="The chance that the promise is wrong, at most.")
    ] = 0.1,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="route (by the prompt) or cascade (small answer checked).")
    ] = "route",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: the router's own file.")
    ] = None,
    cost: CostOption = None,
    part: Annotated[
        float, typer.Option("--part", metavar="X", help="Share of the rows that did not train; the rest is for eval.")
    ] = 0.6,
    json: JsonOption = False,
) -> None:
    """Set the threshold that keeps a goal, proven on rows that did not train the router.

    Exit code 0 also where nothing could be proven: the file then says so, and the router has no threshold.
    """
    from farthing.report.route_json import router_json
    from farthing.report.route_terminal import print_promises
    from farthing.router.learning import calibrate_on
    from farthing.router.trained import Trained

    goal = _goal(target_quality, target_share, target_cost, delta)
    made = calibrate_on(Trained.load(router), _labels(data), goal, mode, part, _costs(cost))
    made.trained.save(out or router)
    for line in made.told:
        note(line)
    emit(json, router_json(made.trained), lambda: print_promises(made.trained, console()))
    note(f"written: {out or router}")


@app.command("eval")
def eval_(
    router: RouterArgument,
    data: DataArgument,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the curve.")] = None,
    cost: CostOption = None,
    all_rows: Annotated[
        bool, typer.Option("--with-calibration-rows", help="Judge by rows that set the threshold, too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """The curve beside lot at the same cost, each model alone and the oracle, on rows the router has not seen."""
    from farthing.report.route_html import to_html
    from farthing.report.route_json import evaluation_json
    from farthing.report.route_terminal import print_evaluation
    from farthing.report.whole_file import whole_file
    from farthing.router.learning import evaluate_on
    from farthing.router.trained import Trained

    trained = Trained.load(router)
    with ExitStack() as files:
        page = None if html is None else files.enter_context(whole_file(html, "--html"))
        found, told = evaluate_on(trained, _labels(data), _costs(cost), is_all=all_rows)
        if page is not None:
            page.write(to_html(found))
    for line in told:
        note(line)
    emit(json, evaluation_json(found), lambda: print_evaluation(found, console()))
    if html is not None:
        note(f"page: {html}")


@app.command("explain")
def explain(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt's text.")],
    router: Annotated[Path, typer.Option("--router", metavar="FILE", help="The router.")],
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="TEXT", help="What the small model answered: is it kept?")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Which model a prompt goes to and why, or whether a small model's answer would be kept."""
    from farthing.report.route_json import explanation_json
    from farthing.report.route_terminal import print_explanation
    from farthing.router.explain import explain as explained
    from farthing.router.explain import explain_answer
    from farthing.router.trained import Trained

    trained = Trained.load(router)
    if not prompt.strip():
        raise InvalidRequest("the prompt is empty; give its text")
    why = explained(trained, prompt)
    of_answer = None if answer is None else explain_answer(trained, prompt, answer)
    emit(
        json,
        explanation_json(why, of_answer, trained),
        lambda: print_explanation(why, of_answer, trained, console()),
    )


def _labels(path: Path) -> "dict[str, dict[str, Label]]":
    from farthing.router.labels_file import gather, read_lines

    return gather(read_lines(path))


def _names(given: str | None) -> list[str] | None:
    if given is None:
        return None
    return list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _costs(given: list[str] | None) -> "Costs | None":
    from farthing.router.labels_file import Costs

    if not given:
        return None
    found, units = {}, set()
    for text in given:
        parts = re.fullmatch(r"(.+)=\$?(\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)(/Mtok)?", text)
        if parts is None:
            raise InvalidRequest(f"--cost is {text[:60]!r}; write it like small=0.0002 or small=0.24/Mtok")
        found[parts[1]] = float(Decimal(parts[2]))
        units.add(parts[3])
    if len(units) > 1:
        raise InvalidRequest("--cost: some are per Mtok and some per request; give all in one unit")
    return Costs(found, "USD per request" if None in units else "USD per million tokens")


def _goal(quality: float | None, share: float | None, cost: Decimal | None, delta: float) -> "Goal":
    from farthing.router.calibrate import Goal

    given: list[Any] = [value for value in (quality, share, cost) if value is not None]
    if len(given) != 1:
        raise InvalidRequest("give one of --target-quality, --target-share-of-large, --target-cost")
    if quality is not None:
        return Goal("quality", quality, delta)
    if share is not None:
        return Goal("share", share, delta)
    return Goal("cost", float(given[0]), delta)

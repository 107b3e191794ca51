"""farthing route: which model a request needs, learned from labelled answers, with a threshold that promises."""

from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from farthing.cli._ledger import ConfigOption, LedgerOption, ledger_config
from farthing.cli._output import JsonOption, console, emit, note, parse_decimal
from farthing.cli._route import (
    CostOption,
    DataArgument,
    FromLedgerOption,
    HiddenOption,
    RouterArgument,
    given_states,
    known_states,
    ledger_reader,
    parse_costs,
    parse_goal,
    parse_names,
    read_labels,
    train_labels,
)
from farthing.errors import InvalidRequest

EXAMPLE = "farthing route train answers.jsonl -o router.safetensors"

app = typer.Typer(help="Learn from labelled answers which model a request needs, and what that saves; --json.")


@app.command("train")
def train(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the router is written.")],
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA.jsonl]", help="Labelled rows, or `farthing compare --out`'s.")
    ] = None,
    from_ledger: FromLedgerOption = False,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    models: Annotated[
        str | None, typer.Option("--models", metavar="A,B", help="The models to choose from (default: all labelled).")
    ] = None,
    cost: CostOption = None,
    part: Annotated[
        float, typer.Option("--part", metavar="X", help="Share of DATA to learn from; the others are for calibration.")
    ] = 0.5,
    hidden_states_of: HiddenOption = None,
    json: JsonOption = False,
) -> None:
    """Learn from labelled rows, from feedback in the ledger, or from both.

    Which rows train is decided by their content; calibrate and eval leave them out.
    """
    from farthing.report.route_json import router_json
    from farthing.report.route_terminal import print_trained
    from farthing.router.learning import train_on

    labels = train_labels(data, from_ledger, ledger, config)
    states_of = given_states(hidden_states_of)
    made = train_on(labels, part, parse_costs(cost), parse_names(models), has_partial=from_ledger, states_of=states_of)
    made.trained.save(out)
    for line in made.told:
        note(line)
    emit(json, router_json(made.trained), lambda: print_trained(made.trained, console()))
    note(f"written: {out}; next: farthing route calibrate {out} {data or 'DATA.jsonl'} --target-share-of-large 0.95")


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
    hidden_states_of: HiddenOption = None,
    json: JsonOption = False,
) -> None:
    """Set the threshold that keeps a goal, proven on rows that did not train the router.

    Exit code 0 also where nothing could be proven: the file then says so, and the router has no threshold.
    """
    from farthing.report.route_json import router_json
    from farthing.report.route_terminal import print_promises
    from farthing.router.learning import calibrate_on
    from farthing.router.trained import Trained

    goal = parse_goal(target_quality, target_share, target_cost, delta)
    trained = Trained.load(router)
    states_of = known_states(trained, hidden_states_of)
    made = calibrate_on(trained, read_labels(data), goal, mode, part, parse_costs(cost), states_of=states_of)
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
    hidden_states_of: HiddenOption = None,
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
    states_of = known_states(trained, hidden_states_of)
    with ExitStack() as files:
        page = None if html is None else files.enter_context(whole_file(html, "--html"))
        found, told = evaluate_on(trained, read_labels(data), parse_costs(cost), is_all=all_rows, states_of=states_of)
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


@app.command("drift")
def drift(
    router: RouterArgument,
    data: Annotated[
        Path | None, typer.Argument(metavar="[PROMPTS.jsonl]", help='{"prompt": "…"} or {"messages": […]} per line.')
    ] = None,
    from_ledger: FromLedgerOption = False,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Whether new prompts still are what the router was trained on. Exit code 0 with an alarm, too."""
    from farthing.report.route_json import drift_json
    from farthing.report.route_ledger import ledger_prompts
    from farthing.report.route_terminal import print_drift
    from farthing.router.drift import drift as found_drift
    from farthing.router.encode import encode_prompts
    from farthing.router.labels_file import read_prompts
    from farthing.router.trained import Trained

    trained = Trained.load(router)
    if (data is None) is not from_ledger:
        raise InvalidRequest("give a file of prompts, or --from-ledger")
    if data is not None:
        prompts = read_prompts(data)
    else:
        with ledger_reader(ledger, config) as reader:
            prompts = ledger_prompts(reader)
    found = found_drift(trained.base, trained.signals(encode_prompts(prompts)))
    emit(json, drift_json(found), lambda: print_drift(found, console()))


@app.command("forget")
def forget(
    is_sure: Annotated[bool, typer.Option("--yes", help="Delete; without it they are counted.")] = False,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Delete the prompts and answers that a server stored. Rows, costs and feedback stay: they hold no text."""
    from farthing.ledger.opening import open_database, transaction
    from farthing.ledger.traffic import delete_traffic

    with ledger_reader(ledger, config) as reader:
        num_rows = len(reader.traffic())
    if is_sure:
        database = open_database(ledger_config(ledger, config), must_exist=True)
        try:
            with transaction(database):
                num_rows = delete_traffic(database)
        finally:
            database.close()
    said = f"{num_rows:,} prompts deleted" if is_sure else f"{num_rows:,} prompts are stored; --yes deletes them"
    emit(json, {"prompts": num_rows, "deleted": is_sure}, lambda: console().print(said))

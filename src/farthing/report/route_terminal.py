"""`farthing route` in the terminal: the curve beside the policies that need no router; why a prompt goes where."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from farthing.report.bill_words import shown
from farthing.report.route_words import MODE_NAMES, cost, cost_head, factor, headline, held, promise, share
from farthing.router.curve import Point
from farthing.router.drift import Drift
from farthing.router.evaluate import Evaluation, ModeResult
from farthing.router.explain import AnswerReason, Reason, Why
from farthing.router.metrics import Interval
from farthing.router.trained import Trained

__all__ = ["print_drift", "print_evaluation", "print_explanation", "print_promises", "print_trained", "sampled"]

NUM_POINTS = 11
WIDTH = 170  # where there is less, lines are long rather than cut
NAME = 60  # of a model, in columns


def print_trained(trained: Trained, console: Console) -> None:
    unit = trained.origin.unit
    pairs = zip(_names(trained), trained.costs, strict=True)
    costs = ", ".join(f"{name} {cost(amount, unit)}" for name, amount in pairs)
    console.print(f"{len(trained.origin.trained):,} rows; {cost_head(unit)}: {costs}")
    console.print(f"modes: {', '.join(trained.prices)}" + ("" if trained.check else " (no answers, so no cascade)"))
    if trained.hidden is not None:
        console.print(f"a cascade looks at the hidden states of {shown(trained.hidden.model, 60)}")


def print_promises(trained: Trained, console: Console) -> None:
    for mode, found in trained.proven.items():
        console.print(f"{mode}: {promise(found, trained.origin.unit)}")


def print_evaluation(found: Evaluation, console: Console) -> None:
    console.width = max(console.width, WIDTH)
    console.print(f"{found.num_rows:,} rows that the router has not seen")
    console.print(headline(found))
    console.print()
    console.print(_policies(found))
    for mode in found.modes:
        console.print()
        console.print(f"{MODE_NAMES[mode.mode]}, the whole curve (from its own candidates):")
        console.print(_curve(found, mode))
        for line in _figures(mode):
            console.print(line)
    if found.drift is not None:
        console.print()
        print_drift(found.drift, console)


def print_drift(found: Drift, console: Console) -> None:
    values = ", ".join(f"{name} {psi:.3f}" for name, psi in found.psi.items())
    said = f"CHANGED: {', '.join(found.alarms)}" if found.alarms else "no alarm"
    console.print(f"drift of {found.num_rows:,} prompts against the training rows: {said} (PSI: {values})")


def print_explanation(why: Why, answer: AnswerReason | None, trained: Trained, console: Console) -> None:
    names = _names(trained)
    small, large = names[0], names[-1]
    if why.model is not None:
        above = "" if why.threshold is None else f" ({large} where its expected lead is above {why.threshold:+.3f})"
        console.print(f"before the call: {shown(why.model, NAME)}{above}")
    else:
        console.print("before the call: no threshold is set (farthing route calibrate --mode route)")
    qualities = zip(names, why.quality.values(), strict=True)
    console.print(f"  expected quality: {', '.join(f'{name} {share(value)}' for name, value in qualities)}")
    lead = f"{large} is expected to do better than {small} by {why.lead:+.3f}"
    console.print(f"  {lead}; by {why.usual:+.3f} on all prompts")
    console.print(f"  of that, this prompt's {_reasons(why.parts)}")
    if why.words:
        console.print(f"  words that weigh most: {_reasons(why.words)}")
    console.print(f"  likeliest topic: {shown(', '.join(why.topic), 120) or 'one without words of its own'}")
    if answer is not None:
        _print_answer(answer, small, console)
    for mode, found in trained.proven.items():
        console.print(f"{mode} promises {promise(found, trained.origin.unit)}")


def _print_answer(answer: AnswerReason, small: str, console: Console) -> None:
    second = shown(answer.next_model, NAME)
    said = {None: "no threshold is set (--mode cascade)", True: f"ask {second}", False: "keep it"}
    below = "" if answer.threshold is None else f" (kept where it is right with at least {share(answer.threshold)})"
    console.print(f"after {small}'s answer: {said[answer.escalates]}{below}")
    console.print(f"  right with a chance of {share(answer.p_right)}; {second} with {share(answer.next_quality)}")
    console.print(f"  weighs most: {_reasons(answer.reasons)}")


def _names(trained: Trained) -> list[str]:
    """A file from elsewhere may name its models as it likes."""
    return [shown(name, NAME) for name in trained.models]


def sampled(points: Sequence[Point], num: int = NUM_POINTS) -> list[Point]:
    """Evenly over the candidates, both ends included."""
    if len(points) <= num:
        return list(points)
    return [points[round(i * (len(points) - 1) / (num - 1))] for i in range(num)]


def _reasons(reasons: Sequence[Reason]) -> str:
    return ", ".join(f"{shown(reason.what, 40)} {reason.amount:+.3f}" for reason in reasons) or "nothing stands out"


def _policies(found: Evaluation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("policy", no_wrap=True)
    for name in ("quality", "95 %", cost_head(found.unit), "cheaper", "lot at that cost", "escalated"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("promise", no_wrap=True)
    dearest = found.singles[-1]
    for policy in (*found.singles, found.oracle):
        always = policy.name if policy is found.oracle else f"always {shown(policy.name, 36)}"
        best = " (best single)" if policy is found.best_single else ""
        interval = f"{share(policy.low)}–{share(policy.high)}"
        amounts = (cost(policy.cost, found.unit), factor(dearest.cost, policy.cost))
        table.add_row(always + best, share(policy.quality), interval, *amounts, "", "", "")
    for mode in found.modes:
        if mode.chosen is not None and mode.proven is not None:
            point = mode.chosen
            table.add_row(
                MODE_NAMES[mode.mode],
                *_cells(found, point),
                held(mode.proven, point, found.singles[1 if mode.mode == "cascade" else -1].quality),
            )
    return table


def _curve(found: Evaluation, mode: ModeResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("quality", "95 %", cost_head(found.unit), "cheaper", "lot at that cost", "escalated"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in sampled(mode.points):
        table.add_row(*_cells(found, point))
    return table


def _cells(found: Evaluation, point: Point) -> tuple[str, ...]:
    return (
        share(point.quality),
        f"{share(point.low)}–{share(point.high)}",
        cost(point.cost, found.unit),
        factor(found.singles[-1].cost, point.cost),
        share(point.random),
        share(point.share),
    )


def _figures(mode: ModeResult) -> list[str]:
    """APGR in the open, as RouteLLM's readers know it; nothing where there is no gap."""
    if mode.apgr is None:
        return ["the dearest model is not surely better on these rows, so there is no gap to recover"]
    figures = [("APGR", mode.apgr, False), ("CPT(50 %)", mode.cpt50, True), ("CPT(80 %)", mode.cpt80, True)]
    return [", ".join(f"{name} {_interval(value, is_share)}" for name, value, is_share in figures if value is not None)]


def _interval(value: Interval, is_share: bool) -> str:
    if is_share:
        return f"{share(value.value)} ({share(value.low)}–{share(value.high)})"
    return f"{value.value:.3f} ({value.low:.3f}–{value.high:.3f}; lot: 0.5)"

"""What the commands of farthing route share: their files, costs and goals as options."""

import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._ledger import ledger_config
from farthing.errors import InvalidRequest

if TYPE_CHECKING:
    from farthing.ledger.reader import Reader
    from farthing.router.calibrate import Goal
    from farthing.router.hidden import StatesOf
    from farthing.router.label import Label
    from farthing.router.labels_file import Costs
    from farthing.router.trained import Trained

__all__ = [
    "CostOption", "DataArgument", "FromLedgerOption", "HiddenOption", "RouterArgument", "given_states", "known_states",
    "ledger_reader", "parse_costs", "parse_goal", "parse_names", "read_labels", "train_labels",
]  # fmt: skip

RouterArgument = Annotated[
    Path, typer.Argument(metavar="ROUTER", help="What `farthing route train` wrote: router.safetensors")
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA.jsonl", help="Labelled rows, or what `farthing compare --out` wrote.")
]
FromLedgerOption = Annotated[
    bool, typer.Option("--from-ledger", help="What a server's ledger has stored (see --ledger, --config).")
]
CostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--cost", metavar="NAME=USD", help="Of a request to each model, or NAME=USD/Mtok; default: as the rows say."
    ),
]
HiddenOption = Annotated[
    str | None,
    typer.Option(
        "--hidden-states-of",
        metavar="MODEL",
        help="A local model's name or path, the first upstream: the check of its answers looks at its hidden states.",
    ),
]


def given_states(source: str | None) -> "StatesOf | None":
    if source is None:
        return None
    from farthing.report.route_hidden import hidden_states  # with it comes the engine

    return hidden_states(source)


def known_states(trained: "Trained", source: str | None) -> "StatesOf | None":
    """Of the model that a router looks into, where it does; by the name in its file, if no other is given."""
    if trained.hidden is not None:
        return given_states(source or trained.hidden.model)
    if source is not None:
        raise InvalidRequest("this router looks at no hidden states: leave --hidden-states-of out, or train with it")
    return None


def ledger_reader(ledger: str | None, config: Path | None) -> "Reader":
    from farthing.ledger.reader import open_reader

    return open_reader(ledger_config(ledger, config).url)


def train_labels(
    data: Path | None, from_ledger: bool, ledger: str | None, config: Path | None
) -> "dict[str, dict[str, Label]]":
    from farthing.report.route_ledger import ledger_lines
    from farthing.router.labels_file import gather, read_lines

    if data is None and not from_ledger:
        raise InvalidRequest("give a file of labelled rows, --from-ledger, or both")
    if not from_ledger and (ledger is not None or config is not None):
        raise InvalidRequest("--ledger and --config belong to --from-ledger; give it too")
    lines = [] if data is None else read_lines(data)
    if from_ledger:
        with ledger_reader(ledger, config) as reader:
            lines += ledger_lines(reader)
    return gather(lines)


def read_labels(path: Path) -> "dict[str, dict[str, Label]]":
    from farthing.router.labels_file import gather, read_lines

    return gather(read_lines(path))


def parse_names(given: str | None) -> list[str] | None:
    if given is None:
        return None
    return list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def parse_costs(given: list[str] | None) -> "Costs | None":
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


def parse_goal(quality: float | None, share: float | None, cost: Decimal | None, delta: float) -> "Goal":
    from farthing.router.calibrate import Goal

    given: list[Any] = [value for value in (quality, share, cost) if value is not None]
    if len(given) != 1:
        raise InvalidRequest("give one of --target-quality, --target-share-of-large, --target-cost")
    if quality is not None:
        return Goal("quality", quality, delta)
    if share is not None:
        return Goal("share", share, delta)
    return Goal("cost", float(given[0]), delta)

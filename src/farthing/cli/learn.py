"""`farthing learn`: what the large model answered teaches the small one; a better version is put in service."""

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from farthing.cli._output import JsonOption, console, emit, note
from farthing.errors import FarthingError, InvalidRequest

if TYPE_CHECKING:
    from farthing.distill.learn import Loop
    from farthing.distill.learn_setup import Setup
    from farthing.server.config_file import Config

EXAMPLE = "farthing learn --config farthing.toml --every 1d"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def learn(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="A farthing.toml with [learn].")],
    every: Annotated[
        str | None, typer.Option("--every", metavar="TIME", help="Run again and again: 90s, 30m, 6h, 1d. Ctrl-C ends.")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="The version before serves again.")] = False,
    history: Annotated[bool, typer.Option("--history", help="What the runs so far ended in.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete the texts that the slot keeps; versions stay.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Teach the small model from escalated traffic, judge it beside the present one, promote it if it is as good and
    cheaper.

    Exit code 0 also where nothing was promoted: the report says why.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the engine has its threads
    from farthing.distill.learn_setup import read_setup
    from farthing.server.config_file import read_config

    if sum((every is not None, rollback, history, forget)) > 1:
        raise InvalidRequest("give one of --every, --rollback, --history and --forget")
    wait_s = None if every is None else parse_time(every)
    found = read_config(config)
    setup = read_setup(found)
    if history:
        return _history(setup, json)
    if forget:
        return _forget(setup, json)
    if rollback:
        return _rolled_back(_loop(setup, found), json)
    while True:
        try:
            _run(setup, found, json)
        except FarthingError as error:
            if wait_s is None:
                raise
            note(f"farthing: error: {error}")
        if wait_s is None:
            return None
        note(f"next run at {datetime.fromtimestamp(time.time() + wait_s, UTC):%Y-%m-%d %H:%M:%S} UTC")
        time.sleep(wait_s)


def parse_time(text: str) -> float:
    """Seconds. Raises InvalidRequest."""
    parts = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    if parts is None or int(parts[1]) == 0:
        raise InvalidRequest(f"--every is {text!r}; write it like 90s, 30m, 6h or 1d")
    return float(int(parts[1]) * UNITS_S[parts[2]])


def _run(setup: "Setup", config: "Config", json: bool) -> None:
    from farthing.ledger.reader import open_reader
    from farthing.report.learn_report import outcome_json, print_outcome

    with open_reader(config.ledger_config().url) as reader:
        outcome = _loop(setup, config).run(reader)
    event, spent = outcome.event, outcome.batch.spent
    emit(
        json,
        outcome_json(event, spent.request_pico, spent.share_up, outcome.told),
        lambda: print_outcome(event, spent.request_pico, spent.share_up, outcome.told, console()),
    )


def _loop(setup: "Setup", config: "Config") -> "Loop":
    from farthing.distill.learn import Loop
    from farthing.distill.learn_setup import trusted_rows
    from farthing.distill.learn_trainer import TrainerTools
    from farthing.economics.cost import HostCost

    host = HostCost(config.economics.usd_per_hour, config.economics.utilisation)
    tools = TrainerTools(setup.learn, setup.recipe, setup.table, host, _Steps())
    return Loop(setup.learn, setup.names, tools, trusted_rows(setup.learn.trusted), note)


class _Steps:
    """A line now and then, on stderr."""

    def __init__(self) -> None:
        self._told_s = 0.0

    def __call__(self, step: Any) -> None:
        if time.monotonic() - self._told_s >= 10:
            self._told_s = time.monotonic()
            note(step.line())


def _rolled_back(loop: "Loop", json: bool) -> None:
    from farthing.report.learn_report import event_json

    event = loop.rollback()
    said = f"version {event.version} of {event.model!r} serves again, instead of {event.replaced}"
    emit(json, event_json(event), lambda: console().print(said))


def _history(setup: "Setup", json: bool) -> None:
    from farthing.report.learn_history import read_history
    from farthing.report.learn_report import event_json, print_history

    events = read_history(setup.learn.slot)
    emit(json, {"events": [event_json(event) for event in events]}, lambda: print_history(events, console()))


def _forget(setup: "Setup", json: bool) -> None:
    from farthing.distill.learn_state import Memory
    from farthing.distill.promotion import Slot

    slot = Slot(setup.learn.slot)
    with slot.locked():
        num_rows = Memory(slot.folder).forget()
    said = f"{num_rows:,} texts deleted; farthing route forget deletes those in the ledger"
    emit(json, {"texts": num_rows}, lambda: console().print(said))

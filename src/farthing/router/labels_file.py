"""Labelled data as a file has it: JSON Lines, read whole; the lines of one prompt become one row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farthing.errors import InvalidRequest
from farthing.router.json_lines import read_json_lines
from farthing.router.label import Label, Line, read_line, read_prompt
from farthing.router.labelled import Answers, Labelled
from farthing.router.origin import Unit
from farthing.router.signals import LEAST, SIGNAL_NAMES

__all__ = ["Costs", "Told", "gather", "read_lines", "read_prompts", "row_signals", "to_rows"]

_FORMS = "see docs/routing.md for the three forms of a line"


@dataclass(frozen=True)
class Costs:
    """What a request to each model costs, where it is not taken from the rows."""

    by_model: Mapping[str, float]
    unit: Unit


@dataclass(frozen=True)
class Told:
    """What was left out or not used, for people."""

    lines: tuple[str, ...]


def read_lines(path: Path) -> list[Line]:
    """Raises InvalidRequest that names the lines that cannot be used."""
    return read_json_lines(path, lambda _, line: read_line(line), _FORMS)


def read_prompts(path: Path) -> list[str]:
    """Each line's prompt; it needs no label. Raises InvalidRequest as read_lines."""
    return read_json_lines(path, lambda _, line: read_prompt(line), _FORMS)


def gather(lines: Iterable[Line]) -> dict[str, dict[str, Label]]:
    """By prompt, by model: of several labels the last, as farthing compare reads its own file."""
    found: dict[str, dict[str, Label]] = {}
    for line in lines:
        labels = found.setdefault(line.prompt, {})
        for name, label in line.labels.items():
            if label.score is not None or name not in labels:
                labels[name] = label
    return found


def to_rows(
    labels: Mapping[str, Mapping[str, Label]],
    costs: Costs | None = None,
    models: Sequence[str] | None = None,
    *,
    keeps_order: bool = False,
) -> tuple[Labelled, Told]:
    """Rows with a label for every one of `models` (None: all that are named), ordered by cost unless told.

    Raises InvalidRequest where a cost is missing or no prompt has a label of every model.
    """
    found = list(dict.fromkeys(name for row in labels.values() for name in row))
    names = found if models is None else list(models)
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidRequest(f"no row has a label of {', '.join(missing)}; the rows are of {', '.join(found)}")
    if len(names) < 2:
        raise InvalidRequest(f"all rows are of {', '.join(names)}; a router needs two models or more")
    complete = {prompt: row for prompt, row in labels.items() if all(_has_label(row, name) for name in names)}
    if not complete:
        raise InvalidRequest(
            f"no prompt has a label of each of {', '.join(names)}; --models A,B names those that count"
        )
    told = []
    if len(complete) < len(labels):
        told.append(f"{len(labels) - len(complete):,} of {len(labels):,} prompts left out: not every model has a label")
    of_request = {name: _cost(name, labels, costs) for name in names}
    if not keeps_order:
        names.sort(key=lambda name: of_request[name])
    quality = np.array([[complete[prompt][name].score for name in names] for prompt in complete], np.float64)
    answered = {number: _answers(name, complete, told) for number, name in enumerate(names[:-1])}
    first = answered.pop(0)
    rows = Labelled(
        tuple(names),
        tuple(of_request[name] for name in names),
        tuple(complete),
        quality,
        None if first is None else first.texts,
        None if first is None else first.signals,
        {number: answers for number, answers in answered.items() if answers is not None} if first else {},
    )
    return rows, Told(tuple(told))


def _answers(name: str, complete: Mapping[str, Mapping[str, Label]], told: list[str]) -> Answers | None:
    """One model's, where every prompt has one."""
    texts = [row[name].answer for row in complete.values()]
    known = tuple(text for text in texts if text is not None)
    if 0 < len(known) < len(complete):
        told.append(f"answers of {name} not used: {len(complete) - len(known):,} prompts have none")
    if not known or len(known) < len(complete):
        return None
    return Answers(known, row_signals([row[name] for row in complete.values()]))


def row_signals(labels: Sequence[Label]) -> NDArray[np.float64] | None:
    """Of one model's answers, nan where not known; None where nothing is."""
    found = np.full((len(labels), len(SIGNAL_NAMES)), np.nan)
    for at, label in enumerate(labels):
        for name, value in (("mean_logprob", label.logprob_mean), ("min_logprob", label.logprob_least)):
            if value is not None:
                found[at, SIGNAL_NAMES.index(name)] = max(value, LEAST)
    return None if np.isnan(found).all() else found


def _has_label(row: Mapping[str, Label], name: str) -> bool:
    return name in row and row[name].score is not None


def _cost(name: str, rows: Mapping[str, Mapping[str, Label]], costs: Costs | None) -> float:
    """As given, otherwise the mean of the rows that have it."""
    if costs is not None:
        if name not in costs.by_model:
            raise InvalidRequest(f"--cost names {', '.join(costs.by_model)}, not {name}; give the cost of each model")
        return costs.by_model[name]
    known = [row[name].cost_pico for row in rows.values() if name in row]
    picos = [pico for pico in known if pico is not None]
    if not picos:
        raise InvalidRequest(
            f"no row says what {name} costs; write cost_usd into the rows, or give --cost {name}=USD for each model: "
            f"dollars per request, or USD/Mtok where requests are alike"
        )
    return sum(picos) / len(picos) / 1e12

"""What the runs of `farthing learn` ended in: SLOT/history.jsonl, a line each, for the bill and for people."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from farthing.errors import CorruptModel
from farthing.report.whole_file import whole_file

__all__ = ["HISTORY", "Event", "Figures", "Kind", "add_event", "event_from", "read_history"]

HISTORY = "history.jsonl"
Kind = Literal["promoted", "kept", "refused", "rolled back"]


@dataclass(frozen=True)
class Figures:
    """Of one request in the mean, on the rows that judged. quality: the share answered as the large model would."""

    cost_pico: int
    quality: float  # 0 to 1
    share_up: float  # of requests that the large model answers, 0 to 1


@dataclass(frozen=True)
class Event:
    """kept: the new version was not better, its rows teach again. refused: it did harm, its rows are set aside."""

    run: int
    at_us: int
    kind: Kind
    model: str  # that clients ask for
    version: str | None  # that serves from now on; None: there is none yet
    replaced: str | None  # that served before
    before: Figures | None = None
    after: Figures | None = None
    difference: float | None = None  # of quality, after less before, on the same rows
    low: float | None = None  # 95 %
    high: float | None = None
    num_judged: int = 0  # rows
    num_taught: int = 0
    reasons: tuple[str, ...] = ()


def read_history(slot: Path) -> list[Event]:
    """By time; empty where nothing was run yet. Raises CorruptModel for a line that is none of ours."""
    try:
        text = (slot / HISTORY).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found.append(event_from(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise CorruptModel(f"{slot / HISTORY}: line {number} is no event of farthing learn") from None
    return found


def add_event(slot: Path, event: Event) -> None:
    """The file is written anew, so it is never half a line; an event that is there already is not written twice."""
    events = read_history(slot)
    if event in events:
        return
    lines: Sequence[Event] = [*events, event]
    with whole_file(slot / HISTORY, "history") as out:
        out.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in lines)


def event_from(found: Mapping[str, Any]) -> Event:
    """What asdict made of it. Raises ValueError, TypeError, KeyError where it is none."""
    known = {field.name for field in fields(Event)}
    if not isinstance(found, dict) or not found.keys() <= known or found["kind"] not in get_args(Kind):
        raise ValueError
    given = {**found, "reasons": tuple(map(str, found.get("reasons", ())))}
    for name in ("before", "after"):
        if given.get(name) is not None:
            given[name] = _figures(given[name])
    event = Event(**given)
    if not isinstance(event.run, int) or not isinstance(event.at_us, int) or not isinstance(event.model, str):
        raise ValueError
    return event


def _figures(found: Mapping[str, Any]) -> Figures:
    quality, share_up = float(found["quality"]), float(found["share_up"])
    if not (math.isfinite(quality) and math.isfinite(share_up)):
        raise ValueError
    return Figures(int(found["cost_pico"]), quality, share_up)

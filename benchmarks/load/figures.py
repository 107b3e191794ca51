"""Answers of the mock provider through a gateway and straight from it: how much later each point was reached."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load.client import Answer, events
from benchmarks.load.schedule import Spread, added

__all__ = ["Times", "compare", "times"]

STAMP = re.compile(rb"fp_(\d{20})_(\d{20})")
Json = dict[str, Any]


@dataclass(frozen=True)
class Times:
    """Milliseconds of one answer. outside_ms is what passed outside the mock on the way to the first piece and back:
    sent to received, and first piece written to read; both loopbacks are in it."""

    first_ms: float  # sent to the first piece with text; for a whole answer, to its end
    end_ms: float  # sent to the last byte
    outside_ms: float
    late_ms: float  # how much later than due it was sent: the generator's own fault


def times(answer: Answer) -> Times:
    """Raises ValueError where the answer was not read to its end, or is not the mock's."""
    if not answer.is_read or answer.end_s is None:
        raise ValueError(f"an answer with status {answer.status} was not read to its end: {answer.body[:200]!r}")
    first_s, first = _first(answer) if answer.is_stream else (answer.end_s, answer.body)
    stamp = STAMP.search(first)
    if stamp is None:
        raise ValueError(f"no stamp of the mock in {first[:200]!r}")
    received_s, written_s = (int(group) / 1e9 for group in stamp.groups())
    outside_s = (received_s - answer.sent_s) + (first_s - written_s)
    since = answer.sent_s
    spans_s = (first_s - since, answer.end_s - since, outside_s, since - answer.due_s)
    return Times(*(1000 * span_s for span_s in spans_s))


def _first(answer: Answer) -> tuple[float, bytes]:
    """When the first text was there, and the event that it came in."""
    for at, event in events(answer):
        if any(choice["delta"].get("content") for choice in event.get("choices", ())):
            return at, event.get("system_fingerprint", "").encode()
    raise ValueError("a stream without text")


def _spreads(found: Sequence[Times]) -> dict[str, Spread]:
    names = ("first_ms", "end_ms", "outside_ms", "late_ms")
    return {name: Spread.of([getattr(one, name) for one in found]) for name in names}


def compare(direct: Iterable[Times], through: Iterable[Times]) -> Json:
    """All rounds together. `added` of first_ms and end_ms are differences of percentiles."""
    ways = {"direct": _spreads(list(direct)), "through": _spreads(list(through))}
    differences = {name: added(ways["through"][name], ways["direct"][name]) for name in ("first_ms", "end_ms")}
    found = {way: {name: asdict(spread) for name, spread in spreads.items()} for way, spreads in ways.items()}
    return {**found, "added": differences}

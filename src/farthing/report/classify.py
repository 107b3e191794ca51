"""Labels for a file of texts, and what they cost: the whole of `farthing classify` but its printing."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farthing.economics.cost import HostCost
from farthing.errors import CapacityError, InvalidRequest
from farthing.report.compare_stats import wilson
from farthing.router.json_lines import json_object, read_json_lines
from farthing.router.label import call_text

if TYPE_CHECKING:
    from farthing.engine.labelling import Labeller

__all__ = ["Classified", "Summary", "TextRow", "classify_rows", "read_rows", "row_json", "summary_of"]

MILLION = 1_000_000


@dataclass(frozen=True)
class TextRow:
    id: str
    text: str
    answers: tuple[str, ...] = ()  # any of them is right; () where nothing is said


@dataclass(frozen=True)
class Classified:
    """One row with its label. top: the likeliest labels with their probabilities. stage: of a cascade, which one
    answered."""

    row: TextRow
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    stage: str | None = None

    @property
    def is_right(self) -> bool | None:
        return self.label in self.row.answers if self.row.answers else None


@dataclass(frozen=True)
class Summary:
    """Of all rows. seconds are those of tokenizing and classifying, reading and writing left out."""

    num_rows: int
    num_tokens: int
    seconds: float
    num_judged: int  # rows that say what is right
    num_right: int
    interval: tuple[float, float] | None  # 95 %, of the share that is right
    usd_per_million: Decimal
    num_by_stage: Mapping[str, int]  # rows that each stage of a cascade answered

    @property
    def accuracy(self) -> float | None:
        return self.num_right / self.num_judged if self.num_judged else None

    @property
    def requests_per_s(self) -> float:
        return self.num_rows / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds


def read_rows(path: Path, limit: int | None = None) -> list[TextRow]:
    """Rows of JSON Lines: prompt, text or messages (of which the last user's counts), perhaps id, perhaps answer (a
    string, or a list of which any is right). Raises InvalidRequest that names the lines that cannot be used."""
    return read_json_lines(path, _row, 'write one per line: {"text": "…"}', limit)


def _row(number: int, line: str) -> TextRow:
    row = json_object(line)
    given = [name for name in ("text", "prompt", "messages") if row.get(name) is not None]
    if len(given) != 1:
        raise InvalidRequest("give one of text, prompt and messages")
    text = call_text(row) if given == ["messages"] else row[given[0]]
    if not isinstance(text, str) or not text:
        raise InvalidRequest(f"{given[0]} has no text; allowed: a string that is not empty, or messages of a user")
    answers = row.get("answer")
    listed = [] if answers is None else answers if isinstance(answers, list) else [answers]
    if not all(isinstance(answer, str) and answer for answer in listed):
        raise InvalidRequest(f"answer is {str(answers)[:60]!r}; allowed: a label, or a list of labels")
    id = row.get("id", f"line {number}")
    if isinstance(id, bool) or not isinstance(id, str | int):
        raise InvalidRequest(f"id is {id!r}; allowed: a string or a whole number")
    try:
        "".join((str(id), text, *listed)).encode()
    except UnicodeEncodeError:
        raise InvalidRequest("holds half of a surrogate pair, which is no character: leave it out") from None
    return TextRow(str(id), text, tuple(listed))


def classify_rows(
    classifier: "Labeller",
    rows: Sequence[TextRow],
    *,
    batch: int,
    num_top: int = 1,
    on_rows: Callable[[int], None] = lambda _: None,
) -> tuple[list[Classified], float, int]:
    """All rows, `batch` at a time; the seconds that took, and how many tokens they had.

    Raises CapacityError, which names the row that is too long, InvalidRequest, which names one without tokens.
    """
    from farthing.engine.labelling import Prompt

    found: list[Classified] = []
    seconds, num_tokens = 0.0, 0
    for part in _parts(rows, batch):
        started_s = time.perf_counter()
        ids = classifier.encode_all([row.text for row in part])
        for row, tokens in zip(part, ids, strict=True):
            if not tokens:
                raise InvalidRequest(f"row {row.id}: its text has no tokens: the model drops all of it; leave it out")
            if len(tokens) > classifier.max_len:
                held = f"{classifier.name} holds {classifier.max_len}"
                raise CapacityError(f"row {row.id}: its text has {len(tokens)} tokens; {held}: shorten it")
        labelled = classifier.label([Prompt(tokens, row.text) for row, tokens in zip(part, ids, strict=True)])
        shares = np.exp(labelled.logs)
        seconds += time.perf_counter() - started_s
        num_tokens += sum(map(len, ids))
        ranked = np.argsort(-shares, axis=1, kind="stable")[:, :num_top].tolist()
        for row, order, share, stage in zip(part, ranked, shares.tolist(), labelled.stages.tolist(), strict=True):
            top = tuple((classifier.labels[at], share[at]) for at in order)
            found.append(Classified(row, *top[0], top, classifier.stages[stage] if classifier.stages else None))
        on_rows(len(part))
    return found, seconds, num_tokens


def _parts(rows: Sequence[TextRow], size: int) -> Iterator[Sequence[TextRow]]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def summary_of(found: Sequence[Classified], seconds: float, num_tokens: int, host: HostCost) -> Summary:
    judged = [one.is_right for one in found if one.is_right is not None]
    num_right = sum(judged)
    interval = wilson(num_right, len(judged)) if judged else None
    usd = host.usd(seconds / len(found) * MILLION)
    stages = Counter(one.stage for one in found if one.stage is not None)
    return Summary(len(found), num_tokens, seconds, len(judged), num_right, interval, usd, stages)


def row_json(one: Classified) -> dict[str, Any]:
    """As a line of --out has it."""
    line: dict[str, Any] = {"id": one.row.id, "text": one.row.text, "label": one.label, "probability": one.probability}
    if len(one.top) > 1:
        line["top"] = [{"label": label, "probability": share} for label, share in one.top]
    if one.stage is not None:
        line["stage"] = one.stage
    if one.row.answers:
        line |= {"answer": list(one.row.answers), "is_right": one.is_right}
    return line
